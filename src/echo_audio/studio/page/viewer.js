// Saved transcripts, in a list with filters: of `echo-audio view`, or inside a shared file.

import { json, request } from "studio/api";
import { $, make, seconds, trouble } from "studio/dom";

const PAGE = 50;
let desk = null;
let shown = 0;
let latest = 0;

export async function begin(theDesk) {
  desk = theDesk;
  desk.lists = false;
  document.body.classList.add("viewing");
  $("sidetitle").textContent = "Transcripts";
  $("drop").hidden = true;
  $("other").hidden = $("none").hidden = true;
  $("more").addEventListener("click", () => list(true));
  try {
    const about = await json("/v1/saved");
    $("about").textContent = about.title;
    filters(about.filters);
    await list(false);
    $("history").querySelector("button")?.click();
  } catch (error) {
    trouble($("trouble"), error.message);
  }
}

function filters(all) {
  const form = $("filters");
  let timer = 0;
  const later = () => { clearTimeout(timer); timer = setTimeout(() => list(false), 200); };
  form.append(make("input", { name: "text", type: "search", placeholder: "words in question or reasoning", "aria-label": "Words in question or reasoning", on: { input: later } }));
  for (const [name, values] of Object.entries(all)) {
    const select = make("select", { name, "aria-label": name, on: { change: () => list(false) } }, make("option", { value: "", text: `${name}: any` }));
    for (const [value, n] of values) select.append(make("option", { value, text: `${value} (${n})` }));
    form.append(select);
  }
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
}

async function list(more) {
  const mine = ++latest;
  shown = more ? shown : 0;
  const wanted = new URLSearchParams([...new FormData($("filters"))].filter(([, value]) => value));
  wanted.set("offset", shown);
  wanted.set("limit", PAGE);
  try {
    const found = await json(`/v1/saved/transcripts?${wanted}`);
    if (mine !== latest) return;
    if (!more) $("history").replaceChildren();
    $("history").append(...found.data.map(line));
    shown += found.data.length;
    $("count").textContent = `${shown} of ${found.total} shown`;
    $("more").hidden = shown >= found.total;
  } catch (error) {
    trouble($("trouble"), error.message);
  }
}

function line(one) {
  const button = make("button", { type: "button", data: { number: one.number }, on: { click: () => open(one, button) } }, one.question,
    make("small", { class: one.verdict === "right" || one.verdict === "wrong" ? one.verdict : "", text: [one.answer ?? "no answer", ...one.about].join(" · ") }));
  return make("li", {}, button);
}

async function open(one, button) {
  for (const other of $("history").querySelectorAll("button")) other.setAttribute("aria-current", String(other === button));
  try {
    const saved = await json(`/v1/saved/transcripts/${one.number}`);
    let sound = null;
    const blob = () => (sound ??= saved.has_audio ? request(`/v1/saved/transcripts/${one.number}/audio`).then((response) => response.blob()) : Promise.resolve(null));
    show(desk, $("runs"), { ...saved, recording: { name: saved.name, blob } });
    $("share").hidden = false;
  } catch (error) {
    trouble($("trouble"), error.message);
  }
}

// Lays a transcript on the desk in the place of the one that is there.
export function show(theDesk, place, { recording, truth, about, events }) {
  for (const run of [...theDesk.runs]) theDesk.remove(run);
  const run = theDesk.add(place, { recording, truth, about });
  for (const [name, data] of events) run.feed(name, data);
  run.button.hidden = true;
  theDesk.choose(run);
  return run;
}

export { seconds };
