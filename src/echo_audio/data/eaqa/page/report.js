"use strict";
// Everything from data goes in by textContent or as numbers; nothing is ever parsed as HTML.
const data = JSON.parse(document.getElementById("data").textContent);
const PAGE = 20;
const state = { route: "", kind: "", find: "", page: 0 };

function el(name, attributes, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) node.setAttribute(key, value);
  node.append(...children.map((child) => (child instanceof Node ? child : document.createTextNode(String(child)))));
  return node;
}

function play(player, start, end) {
  if (!player) return;
  player.currentTime = start;
  player.play();
  const stop = () => { if (player.currentTime >= end) { player.pause(); player.removeEventListener("timeupdate", stop); } };
  player.addEventListener("timeupdate", stop);
}

function track(spans, sample, player, kind) {
  const row = el("div", { class: "track" });
  spans.forEach(([start, end, label]) => {
    const span = el("span", { class: kind, title: `${label} ${start.toFixed(2)} to ${end.toFixed(2)} s` }, label);
    span.style.left = `${(100 * start) / sample.duration_s}%`;
    span.style.width = `${Math.max(0.3, (100 * (end - start)) / sample.duration_s)}%`;
    span.addEventListener("click", () => play(player, start, end));
    row.append(span);
  });
  return row;
}

function lanes(events) {
  // Events that overlap lie in different lanes.
  const out = [];
  events.forEach((event) => {
    const free = out.find((lane) => lane[lane.length - 1][1] <= event[0]);
    if (free) free.push(event); else out.push([event]);
  });
  return out;
}

function reasoning(sample, player) {
  const out = el("p", { class: "reasoning" });
  sample.parts.forEach((part) => {
    if (typeof part === "string") return out.append(part);
    const [start, end] = part;
    const button = el("button", { type: "button" }, `♪ ${start.toFixed(2)}–${end.toFixed(2)} s`);
    button.addEventListener("click", () => play(player, start, end));
    return out.append(button);
  });
  return out;
}

function card(sample) {
  const li = el("li", {});
  const why = sample.reasons.length ? `: ${sample.reasons.join("; ")}` : "";
  li.append(el("div", { class: "soft" }, el("span", { class: `route ${sample.route}` }, sample.route), `${why} · ${sample.kind} · ${sample.id}`));
  if (!sample.question) return li;
  li.append(el("div", {}, sample.question));
  const choices = el("div", {});
  sample.choices.forEach((choice) => choices.append(el("span", { class: `choice ${choice === sample.answer ? "truth" : ""}` }, choice)));
  li.append(choices);
  const player = sample.audio ? el("audio", { controls: "", preload: "none" }) : null;
  if (player) player.src = sample.audio;
  lanes(sample.events).forEach((lane) => li.append(track(lane, sample, player, "event")));
  if (sample.cited.length) li.append(track(sample.cited, sample, player, "cited"));
  if (player) li.append(player);
  li.append(reasoning(sample, player));
  const details = el("details", {}, el("summary", { class: "soft" }, "what was known, and what the judge said"));
  sample.notes.forEach(([name, text]) => details.append(el("div", {}, el("b", {}, `${name}: `), text)));
  li.append(details);
  return li;
}

function chosen() {
  const find = state.find.toLowerCase();
  return data.samples.filter((s) => (!state.route || s.route === state.route) && (!state.kind || s.kind === state.kind)
    && (!find || `${s.id} ${s.question} ${s.reasons.join(" ")} ${s.parts.join(" ")}`.toLowerCase().includes(find)));
}

function show() {
  const some = chosen(), pages = Math.max(1, Math.ceil(some.length / PAGE));
  state.page = Math.min(Math.max(0, state.page), pages - 1);
  document.getElementById("list").replaceChildren(...some.slice(state.page * PAGE, (state.page + 1) * PAGE).map(card));
  const step = (by, text) => {
    const button = el("button", { type: "button" }, text);
    button.addEventListener("click", () => { state.page += by; show(); document.getElementById("filters").scrollIntoView(); });
    return button;
  };
  document.getElementById("pager").replaceChildren(step(-1, "‹"), ` page ${state.page + 1} of ${pages}, ${some.length} of ${data.n} rows `, step(1, "›"));
}

function menu(name, first, values) {
  const select = el("select", { "aria-label": name }, el("option", { value: "" }, first));
  [...new Set(values)].filter(Boolean).sort().forEach((value) => select.append(el("option", { value }, value)));
  select.addEventListener("change", () => { Object.assign(state, { [name]: select.value, page: 0 }); show(); });
  return select;
}

const form = document.getElementById("filters");
const find = el("input", { type: "search", placeholder: "find in question, reasoning, reason" });
find.addEventListener("input", () => { Object.assign(state, { find: find.value, page: 0 }); show(); });
form.append(menu("route", "every route", data.samples.map((s) => s.route)), menu("kind", "every kind", data.samples.map((s) => s.kind)), find);
form.addEventListener("submit", (event) => event.preventDefault());
show();
