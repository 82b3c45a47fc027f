"use strict";
// Everything from data files goes in by textContent or setAttribute with numbers; nothing is ever parsed as HTML.
const data = JSON.parse(document.getElementById("data").textContent);
const PAGE = 20;
const TEXTS = { all: "all", wrong: "wrong (official)", unparsed: "unparsed", no_segment: "without a segment",
  disagree: "the two rules disagree", failed: "could not be asked", changed: "differs from the other run" };
const state = { only: "all", group: "", find: "", page: 0 };

function el(name, attributes, ...children) {
  const svg = ["svg", "rect"].includes(name);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) node.setAttribute(key, value);
  node.append(...children.map((child) => (child instanceof Node ? child : document.createTextNode(String(child)))));
  return node;
}

const tests = {
  all: () => true,
  wrong: (s) => s.official === false,
  unparsed: (s) => s.status === "ok" && !s.parsed,
  no_segment: (s) => s.status === "ok" && s.segments.length === 0,
  disagree: (s) => s.official !== null && s.official !== s.strict,
  failed: (s) => s.status !== "ok",
  changed: (s) => s.other !== undefined && s.other.official !== s.official,
};

function chosen() {
  const find = state.find.toLowerCase();
  return data.samples.filter((s) => tests[state.only](s)
    && (!state.group || Object.entries(s.groups).some(([k, v]) => `${k}: ${v}` === state.group))
    && (!find || `${s.key} ${s.question} ${s.response}`.toLowerCase().includes(find)));
}

function wave(sample, player) {
  const svg = el("svg", { class: "wave", viewBox: "0 0 1000 64", preserveAspectRatio: "none", role: "img" });
  const n = sample.wave.length;
  [...sample.wave].forEach((c, i) => {
    const height = 2 + (parseInt(c, 36) / 35) * 60;
    svg.append(el("rect", { class: "bar", x: (i * 1000) / n, width: 700 / n, y: 32 - height / 2, height }));
  });
  sample.segments.forEach(([start, end]) => {
    const box = el("rect", { class: "seg", x: (start / sample.duration_s) * 1000, y: 0, height: 64,
      width: Math.max(2, ((end - start) / sample.duration_s) * 1000) });
    box.addEventListener("click", () => play(player, start, end));
    svg.append(box);
  });
  return svg;
}

function play(player, start, end) {
  if (!player) return;
  player.currentTime = start;
  player.play();
  const stop = () => { if (player.currentTime >= end) { player.pause(); player.removeEventListener("timeupdate", stop); } };
  player.addEventListener("timeupdate", stop);
}

function reasoning(sample, player, svg) {
  const out = el("p", { class: "reasoning" });
  sample.parts.forEach((part) => {
    if (typeof part === "string") return out.append(part);
    const [start, end, heard] = part;
    const button = el("button", { type: "button" }, `${start.toFixed(2)}–${end.toFixed(2)} s${heard ? " ♪" : ""}`);
    button.addEventListener("click", () => play(player, start, end));
    const at = sample.segments.findIndex(([a, b]) => a === start && b === end);
    if (svg && at >= 0) {
      const box = svg.querySelectorAll(".seg")[at];
      button.addEventListener("mouseenter", () => box.classList.add("on"));
      button.addEventListener("mouseleave", () => box.classList.remove("on"));
    }
    return out.append(button);
  });
  return out;
}

function card(sample) {
  const li = el("li", { id: `q-${sample.place}` });
  const verdict = sample.official === null ? "no truth known" : sample.official ? "right" : "wrong";
  li.append(el("div", { class: "soft" }, `${sample.place + 1}. ${sample.key} · `, el("span", { class: verdict }, verdict),
    ` by the official rule, ${sample.strict ? "right" : "not right"} by the strict one · read by ${sample.step}`));
  li.append(el("div", {}, sample.question));
  const choices = el("div");
  sample.choices.forEach((choice) => {
    const given = choice === sample.choice ? (sample.official ? "right" : "wrong") : "";
    choices.append(el("span", { class: `choice ${given} ${choice === sample.answer ? "truth" : ""}` }, choice));
  });
  li.append(choices);
  if (sample.detail) li.append(el("p", { class: "wrong" }, `${sample.status}: ${sample.detail}`));
  const player = sample.audio ? el("audio", { controls: "", preload: "none" }) : null;
  if (player) player.src = sample.audio;
  const svg = sample.wave ? wave(sample, player) : null;
  if (svg) li.append(svg);
  if (player) li.append(player);
  li.append(reasoning(sample, player, svg));
  if (sample.other) li.append(el("details", {}, el("summary", {}, `the other run: ${sample.other.choice ?? "unparsed"} (${sample.other.official ? "right" : "wrong"})`),
    el("p", { class: "reasoning" }, sample.other.response)));
  li.append(el("div", { class: "soft" }, `${sample.duration_s.toFixed(2)} s · stop: ${sample.stop} · `
    + Object.entries(sample.groups).map(([k, v]) => `${k}: ${v}`).join(" · ")));
  return li;
}

function show() {
  const some = chosen(), pages = Math.max(1, Math.ceil(some.length / PAGE));
  state.page = Math.min(Math.max(0, state.page), pages - 1);
  document.getElementById("list").replaceChildren(...some.slice(state.page * PAGE, (state.page + 1) * PAGE).map(card));
  const step = (by, text) => {
    const button = el("button", { type: "button" }, text);
    button.addEventListener("click", () => { state.page += by; show(); document.getElementById("samples").scrollIntoView(); });
    return button;
  };
  document.getElementById("pager").replaceChildren(step(-1, "‹"), ` page ${state.page + 1} of ${pages}, ${some.length} samples `, step(1, "›"));
}

function begin() {
  const form = document.getElementById("filters");
  const only = el("select", { "aria-label": "which" });
  Object.entries(TEXTS).forEach(([value, text]) => {
    const n = data.samples.filter(tests[value]).length;
    if (n || value === "all") only.append(el("option", { value }, `${text} (${n})`));
  });
  const group = el("select", { "aria-label": "group" }, el("option", { value: "" }, "every group"));
  [...new Set(data.samples.flatMap((s) => Object.entries(s.groups).map(([k, v]) => `${k}: ${v}`)))].sort()
    .forEach((name) => group.append(el("option", { value: name }, name)));
  const find = el("input", { type: "search", placeholder: "find in question, id, reasoning" });
  only.addEventListener("change", () => { Object.assign(state, { only: only.value, page: 0 }); show(); });
  group.addEventListener("change", () => { Object.assign(state, { group: group.value, page: 0 }); show(); });
  find.addEventListener("input", () => { Object.assign(state, { find: find.value, page: 0 }); show(); });
  form.append(only, group, find);
  form.addEventListener("submit", (event) => event.preventDefault());
  show();
}

begin();
