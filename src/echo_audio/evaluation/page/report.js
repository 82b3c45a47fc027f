"use strict";
// Everything from data files goes in by textContent or setAttribute with numbers; nothing is ever parsed as HTML.
const data = JSON.parse(document.getElementById("data").textContent);
const PAGE = 20;
const two = data.samples.some((s) => s.other);
const state = { only: "all", group: "", find: "", page: 0 };

const FILTERS = {
  all: ["all", () => true],
  wrong: ["wrong", (s) => s.official === false],
  unparsed: ["unparsed", (s) => s.status === "ok" && !s.parsed],
  no_segment: ["no segment", (s) => s.status === "ok" && !s.parts.some((part) => typeof part !== "string")],
  disagree: ["the two rules disagree", (s) => s.official !== null && s.official !== s.strict],
  failed: ["could not be asked", (s) => s.status !== "ok"],
  changed: ["differs from the other run", (s) => s.other !== undefined && s.other.official !== s.official],
};

// What the model heard where it wrote a segment.
const PLAYED = {
  crop: [" ♪", "heard again here"],
  silenced: [" (silence)", "silence was played here"],
  swapped: [" (another recording)", "as much of another recording was played here"],
  withheld: [" (not played)", "nothing was played here"],
  "": [" (refused)", "written, and not played: see the reasons under Listening again"],
};

function el(name, attributes, ...children) {
  const svg = ["svg", "rect"].includes(name);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) node.setAttribute(key, value);
  node.append(...children.map((child) => (child instanceof Node ? child : document.createTextNode(String(child)))));
  return node;
}

const groupsOf = (sample) => Object.entries(sample.groups).map(([name, value]) => `${name}: ${value}`);

function chosen() {
  const find = state.find.toLowerCase();
  const test = FILTERS[state.only][1];
  return data.samples.filter((s) => test(s) && (!state.group || groupsOf(s).includes(state.group))
    && (!find || `${s.key} ${s.question} ${s.response}`.toLowerCase().includes(find)));
}

// One segment plays at a time: a new one takes the place of the one before, on this page's players too.
let playing = null;

function play(player, start, end) {
  if (playing) { playing.player.removeEventListener("timeupdate", playing.stop); playing.player.pause(); }
  const stop = () => {
    if (player.currentTime < end) return;
    player.pause();
    player.removeEventListener("timeupdate", stop);
  };
  playing = { player, stop };
  player.currentTime = start;
  player.addEventListener("timeupdate", stop);
  player.play().catch(() => { player.title = "this browser cannot play the recording from here"; });
}

function wave(sample, run, player) {
  const svg = el("svg", { class: player ? "wave plays" : "wave", viewBox: "0 0 1000 56", preserveAspectRatio: "none", role: "img",
    "aria-label": `waveform, ${run.segments.length} segments heard again` });
  const n = sample.wave.length;
  [...sample.wave].forEach((c, i) => {
    const height = 2 + (parseInt(c, 36) / 35) * 52;
    svg.append(el("rect", { class: "bar", x: (i * 1000) / n, width: 700 / n, y: 28 - height / 2, height }));
  });
  run.segments.forEach(([start, end]) => {
    const box = el("rect", { class: "seg", x: (start / sample.duration_s) * 1000, y: 0, height: 56,
      width: Math.max(2, ((end - start) / sample.duration_s) * 1000) });
    if (player) box.addEventListener("click", () => play(player, start, end));
    svg.append(box);
  });
  return svg;
}

function reasoning(run, player, svg) {
  const out = el("p", { class: "reasoning" });
  run.parts.forEach((part) => {
    if (typeof part === "string") {
      part.split(/(<\/?(?:think|answer)>)/).forEach((text, i) => out.append(i % 2 ? el("span", { class: "tag" }, text) : text));
      return;
    }
    const [start, end, played] = part;
    const button = el("button", { type: "button", class: played === "crop" ? "heard" : "", title: PLAYED[played][1] },
      `${player ? "▶ " : ""}${start.toFixed(2)}–${end.toFixed(2)} s${PLAYED[played][0]}`);
    if (player) button.addEventListener("click", () => play(player, start, end)); else button.disabled = true;
    const at = run.segments.findIndex(([a, b]) => a === start && b === end);
    if (svg && at >= 0) {
      const box = svg.querySelectorAll(".seg")[at];
      for (const [event, on] of [["mouseenter", true], ["focus", true], ["mouseleave", false], ["blur", false]]) {
        button.addEventListener(event, () => box.classList.toggle("on", on));
      }
    }
    out.append(button);
  });
  return out;
}

const verdictOf = (official) => (official === null ? "no truth known" : official ? "right" : "wrong");

// What one run made of a question: waveform, player, reasoning. Side by side, each has its own.
function told(sample, run, name) {
  const out = el("div");
  if (name) out.append(el("h3", {}, `${name}: `, el("span", { class: verdictOf(run.official) }, run.choice ?? "unparsed")));
  const player = sample.audio ? el("audio", { controls: "", preload: "none" }) : null;
  if (player) player.src = sample.audio;
  const svg = sample.wave && sample.duration_s > 0 ? wave(sample, run, player) : null;
  if (svg) out.append(svg, el("div", { class: "scale" }, el("span", {}, "0 s"), el("span", {}, `${sample.duration_s.toFixed(1)} s`)));
  if (player) out.append(player);
  out.append(reasoning(run, player, svg));
  return out;
}

function card(sample) {
  const li = el("li", { id: `q-${sample.place}` });
  const verdict = verdictOf(sample.official);
  li.append(el("div", { class: "soft" }, `${sample.place + 1}. ${sample.key} · `, el("span", { class: verdict }, verdict),
    sample.official === null ? "" : ` by the official rule, ${sample.strict ? "right" : "not right"} by the strict one`,
    sample.step ? ` · ${sample.parsed ? "read by" : "not read:"} ${sample.step}` : ""));
  li.append(el("div", { class: "question" }, sample.question));
  const choices = el("div");
  sample.choices.forEach((choice) => {
    const given = choice === sample.choice && sample.official !== null ? verdict : "";
    choices.append(el("span", { class: `choice ${given} ${choice === sample.answer ? "truth" : ""}` }, choice));
  });
  li.append(choices);
  if (sample.detail) li.append(el("p", { class: "wrong" }, `${sample.status}: ${sample.detail}`));
  const runs = el("div", { class: sample.other ? "runs two" : "runs" }, told(sample, sample, data.names[0]));
  if (sample.other) runs.append(told(sample, sample.other, data.names[1]));
  li.append(runs);
  li.append(el("div", { class: "soft" }, [`${sample.duration_s.toFixed(2)} s`, `stop: ${sample.stop}`, ...groupsOf(sample)].join(" · ")));
  return li;
}

function pager(pages, n) {
  const step = (by, text, name) => {
    const button = el("button", { type: "button", "aria-label": name }, text);
    button.disabled = state.page + by < 0 || state.page + by >= pages;
    button.addEventListener("click", () => { state.page += by; show(); document.getElementById("samples").scrollIntoView(); });
    return button;
  };
  return [step(-1, "‹", "page before"), el("span", {}, `page ${state.page + 1} of ${pages}, ${n} samples`), step(1, "›", "next page")];
}

function show() {
  const some = chosen(), pages = Math.max(1, Math.ceil(some.length / PAGE));
  state.page = Math.min(Math.max(0, state.page), pages - 1);
  document.getElementById("list").replaceChildren(...some.slice(state.page * PAGE, (state.page + 1) * PAGE).map(card));
  document.querySelectorAll(".pager").forEach((where) => where.replaceChildren(...pager(pages, some.length)));
  document.querySelectorAll(".chips button").forEach((chip) => chip.setAttribute("aria-pressed", chip.value === state.only));
}

function begin() {
  const form = document.getElementById("filters");
  const chips = el("div", { class: "chips" });
  Object.entries(FILTERS).forEach(([value, [text, test]]) => {
    const n = data.samples.filter(test).length;
    if (value === "changed" && !two) return;
    const chip = el("button", { type: "button", value }, `${text} (${n})`);
    chip.disabled = !n && value !== "all";
    chip.addEventListener("click", () => { Object.assign(state, { only: value, page: 0 }); show(); });
    chips.append(chip);
  });
  const group = el("select", { "aria-label": "group" }, el("option", { value: "" }, "every group"));
  [...new Set(data.samples.flatMap(groupsOf))].sort().forEach((name) => group.append(el("option", { value: name }, name)));
  const find = el("input", { type: "search", "aria-label": "find", placeholder: "find in question, id, reasoning", size: 28 });
  group.addEventListener("change", () => { Object.assign(state, { group: group.value, page: 0 }); show(); });
  find.addEventListener("input", () => { Object.assign(state, { find: find.value, page: 0 }); show(); });
  form.append(chips, group, find);
  form.addEventListener("submit", (event) => event.preventDefault());
  const place = Number((location.hash.match(/^#q-(\d+)$/) || [])[1] ?? -1); // report.html#q-12 opens at that question
  state.page = Math.floor(Math.max(0, data.samples.findIndex((s) => s.place === place)) / PAGE);
  show();
  document.getElementById(`q-${place}`)?.scrollIntoView();
}

begin();
