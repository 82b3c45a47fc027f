// Asking: a recording, a question, one answer or several side by side.

import { json, listen } from "studio/api";
import { $, make, say, trouble } from "studio/dom";
import { microphone } from "studio/mic";
import { example, upload, wavOf } from "studio/sounds";

let desk = null;
let limits = {};
let sound = null; // the recording that is asked about
const sounds = []; // all of this session
let choices = [];

export async function begin(theDesk, nonce) {
  desk = theDesk;
  $("choose").addEventListener("click", () => $("file").click());
  $("file").addEventListener("change", () => $("file").files[0] && take($("file").files[0]));
  $("other").addEventListener("click", another);
  dropping($("recording"));
  microphone(nonce, async (blob) => take(await wavOf(blob), "microphone.wav"));
  $("ask").addEventListener("submit", (event) => { event.preventDefault(); ask([{}]); });
  $("question").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("ask").requestSubmit();
  });
  $("modes").addEventListener("click", () => ask([{ mode: "interleaved" }, { mode: "grounded" }, { mode: "conditioned" }].map((one) => ({ ...one, played: "crop" }))));
  $("what-if").addEventListener("click", whatIf);
  $("played").addEventListener("change", options);
  $("choice").addEventListener("keydown", typing);
  $("choice").addEventListener("blur", addChoice);
  for (const radio of document.getElementsByName("mode")) radio.addEventListener("change", options);
  options();
  try {
    const [model] = (await json("/v1/models")).data;
    limits = model.limits;
    $("about").textContent = `${model.id} · recordings up to ${Math.round(limits.max_duration_s)} s · what you send stays in this server's memory`;
    $("max_new_tokens").value = limits.max_new_tokens;
    $("takes").textContent = `wav, flac, ogg, mp3 or m4a, up to ${Math.round(limits.max_duration_s)} s`;
    showExamples((await json("/v1/examples")).data);
  } catch (error) {
    trouble($("trouble"), error.message);
  }
}

function showExamples(all) {
  $("examples").hidden = !all.length;
  $("examples").querySelector("ul").replaceChildren(...all.map((one) => make("li", {}, make("button", { type: "button", text: one.question, on: { click: () => useExample(one) } }))));
}

async function useExample(one) {
  await working(async () => {
    await use(await example(one.number));
    $("question").value = one.question;
    choices = [...one.choices];
    showChoices();
  });
}

function dropping(area) {
  let depth = 0;
  const over = (by) => (event) => {
    event.preventDefault();
    depth = by === 0 ? 0 : depth + by;
    area.classList.toggle("over", depth > 0);
  };
  area.addEventListener("dragenter", over(1));
  area.addEventListener("dragleave", over(-1));
  area.addEventListener("dragover", (event) => event.preventDefault());
  area.addEventListener("drop", (event) => {
    over(0)(event);
    const [file] = event.dataTransfer.files;
    if (file) take(file);
  });
  for (const kind of ["dragover", "drop"]) document.addEventListener(kind, (event) => event.preventDefault()); // a miss does not leave the page
}

async function take(file, name = file.name) {
  if (file.size > limits.max_upload_bytes) {
    trouble($("trouble"), `“${name}” has ${(file.size / 1e6).toFixed(0)} MB, and this server takes ${(limits.max_upload_bytes / 1e6).toFixed(0)} MB. Give a shorter or a compressed recording.`);
    return;
  }
  await working(async () => use(await upload(file, name)));
  $("file").value = "";
}

async function working(act) {
  trouble($("trouble"), "");
  $("recording").setAttribute("aria-busy", "true");
  $("choose").textContent = "One moment …";
  try {
    await act();
  } catch (error) {
    trouble($("trouble"), error.message);
  } finally {
    $("recording").removeAttribute("aria-busy");
    $("choose").textContent = "Choose a file";
  }
}

async function use(recording) {
  sound = recording;
  sounds.push(recording);
  desk.chosen?.element.classList.remove("chosen");
  desk.chosen = null;
  desk.player.put([]);
  $("readalong").hidden = true;
  await desk.player.show(await recording.blob(), recording.name);
  $("drop").hidden = true;
  $("mic").hidden = true;
  $("ask").hidden = false;
  const others = sounds.filter((one) => one !== recording);
  $("swap").replaceChildren(...others.map((one) => make("option", { value: one.id, text: one.name })));
  options();
  $("question").focus({ preventScroll: true });
  say(`${recording.name}, ${recording.duration_s.toFixed(1)} seconds. Ask about it.`);
}

function another() {
  desk.quiet();
  desk.player.clear();
  $("drop").hidden = false;
  $("choose").focus();
}

function typing(event) {
  if (event.key === "Enter") {
    event.preventDefault();
    if (event.ctrlKey || event.metaKey) {
      addChoice();
      $("ask").requestSubmit();
    } else addChoice();
  } else if (event.key === "Backspace" && !$("choice").value && choices.length) {
    choices.pop();
    showChoices();
  }
}

function addChoice() {
  const text = $("choice").value.trim();
  if (text && !choices.includes(text)) choices.push(text);
  $("choice").value = "";
  showChoices();
}

function showChoices() {
  const drop = (text) => () => {
    choices = choices.filter((one) => one !== text);
    showChoices();
  };
  $("choices").replaceChildren(...choices.map((text) => make("li", {}, make("button", { type: "button", text, "aria-label": `Take the choice ${text} away`, on: { click: drop(text) } }))));
}

// What cannot be combined cannot be chosen.
function options() {
  const again = document.querySelector("[name=mode]:checked").value === "interleaved";
  $("played").disabled = !again;
  if (!again) $("played").value = "crop";
  $("swap").disabled = $("played").value !== "swapped";
}

function manner() {
  const number = (id) => ($(id).value === "" ? undefined : Number($(id).value));
  const how = { mode: document.querySelector("[name=mode]:checked").value, played: $("played").value };
  for (const id of ["temperature", "top_p", "seed", "max_relistens", "max_relisten_s", "max_new_tokens"]) how[id] = number(id);
  return how;
}

async function whatIf() {
  const manners = ["crop", "silenced", "withheld"].map((played) => ({ mode: "interleaved", played }));
  const other = sounds.find((one) => one !== sound);
  if (other) manners.push({ mode: "interleaved", played: "swapped", swap_with: $("swap").value || other.id });
  else say("With a second recording, a fourth answer hears that one instead.");
  await ask(manners);
}

async function ask(manners) {
  addChoice();
  trouble($("wrong"), "");
  const question = $("question").value.trim();
  const sayWrong = (text) => { trouble($("wrong"), text); $("question").focus(); };
  if (!question) return sayWrong("Write a question first.");
  if (choices.length === 1) return sayWrong("One choice is no choice: give two or more, or none for a free answer.");
  const base = manner();
  if (base.played === "swapped" && manners.length === 1) {
    if (!$("swap").value) return sayWrong("To play another recording, load a second one first.");
    base.swap_with = $("swap").value;
  }
  let place = $("runs");
  if (manners.length > 1) {
    place = make("div", { class: "compare", role: "group", "aria-label": question });
    $("runs").prepend(place);
  }
  const runs = manners.map((how) => {
    const body = { ...base, swap_with: how.played === "swapped" ? how.swap_with : base.swap_with, ...how, question, choices, audio: sound.id };
    if (body.played !== "swapped") delete body.swap_with;
    const run = desk.add(place, { recording: sound });
    if (manners.length === 1) place.prepend(run.element);
    return [run, body];
  });
  desk.choose(runs[0][0]);
  runs[0][0].element.scrollIntoView({ block: "nearest", behavior: "smooth" });
  await Promise.all(runs.map(([run, body]) => go(run, body)));
  $("share").hidden = false;
}

async function go(run, body) {
  const stopping = new AbortController();
  run.cancel = () => stopping.abort();
  run.title.textContent = body.question;
  let follows = true; // what is written stays in view, until somebody scrolls
  for (const moved of ["wheel", "touchmove", "keydown"]) addEventListener(moved, () => (follows = false), { once: true, passive: true, signal: stopping.signal });
  try {
    await listen(body, (name, data) => {
      run.feed(name, data);
      if (follows && run === desk.chosen) run.element.scrollIntoView({ block: "nearest", behavior: "instant" });
    }, stopping.signal);
    say(run.end.answer === null ? "No answer." : `Answer: ${run.end.answer}`);
  } catch (error) {
    run.finish(error.message);
    say(error.message);
  }
}
