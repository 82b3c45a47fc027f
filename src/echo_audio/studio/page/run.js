// One reasoning as a card: its text as it comes, its segments, its answer. It is made of events (events.md) and of nothing else.

import { hue, make, seconds } from "studio/dom";

const MODES = { interleaved: "hears again", grounded: "only cites", conditioned: "hears once" };
const PLAYED = { crop: "", withheld: "nothing is played", silenced: "silence is played", swapped: "another recording is played" };

export function label(open) {
  return [MODES[open.mode] ?? open.mode, PLAYED[open.played]].filter(Boolean).join(", ");
}

let count = 0;

export class Run extends EventTarget {
  constructor({ recording, name, truth = null, about = [] }) {
    super();
    Object.assign(this, { id: ++count, recording, name, truth, about, events: [], segments: [], open: null, end: null, over: false });
    this.title = make("h2");
    this.how = make("p", { class: "how" });
    this.given = make("ul", { class: "given", "aria-label": "Choices" });
    this.lane = make("div", { class: "lane", role: "img", "aria-label": "Where the segments lie in the recording" });
    this.thought = make("div", { class: "thought caret" });
    this.answer = make("div", { class: "answer", hidden: true });
    this.wrong = make("p", { class: "trouble", role: "alert", hidden: true });
    this.button = make("button", { class: "quiet close", type: "button", text: "Stop", "aria-label": "Stop this answer", on: { click: () => this.dispatchEvent(new Event("close")) } });
    this.element = make("article", { class: "card run", data: { run: this.id } },
      make("div", { class: "head" }, this.title, this.button), this.how, this.given, this.lane, this.thought, this.wrong, this.answer);
    this.element.addEventListener("click", () => this.dispatchEvent(new Event("choose")));
    this.sentence = null;
    this.said = "";
  }

  // The segments as regions: equal spans are one region with one colour.
  spans() {
    return this.segments.filter((segment) => segment.first).map(({ index, start, end, hue, on }) => ({ index, start, end, hue, on }));
  }

  feed(name, data) {
    this.events.push([name, data]);
    this[`on_${name}`]?.(data);
    if (name !== "heard" && name !== "note" && this.hearing) this.lit(this.hearing, false);
  }

  on_open(data) {
    this.open = data;
    this.title.textContent = data.question;
    this.how.replaceChildren(make("b", { text: label(data) }), [this.name, ...this.about, data.temperature ? `temperature ${data.temperature}, seed ${data.seed}` : ""].filter(Boolean).map((one) => ` · ${one}`).join(""));
    this.given.replaceChildren(...data.choices.map((choice) => make("li", { text: choice, class: choice === this.truth ? "truth" : "" })));
    this.given.hidden = !data.choices.length;
    this.dispatchEvent(new Event("opened"));
  }

  on_queued(data) {
    this.note(data.before ? `waiting: ${data.before} before it` : "waiting for a place");
  }

  on_text(data) {
    if (data.part === "answer") this.said += data.text;
    else this.write(data.text, data.author);
  }

  on_mark() {
    this.sentence = null;
  }

  on_segment(data) {
    const placed = data.start_s !== null;
    const twin = placed ? this.segments.find((one) => one.first && one.start === data.start_s && one.end === data.end_s) : undefined;
    const tone = twin ? twin.hue : hue(this.segments.filter((one) => one.first).length);
    const chip = make("button", { type: "button", class: placed ? "seg cited" : "seg none", text: placed ? `${seconds(data.start_s)}–${seconds(data.end_s)}` : data.text, title: data.text,
      "aria-label": placed ? `Play ${seconds(data.start_s)} to ${seconds(data.end_s)} seconds` : `No span of the recording: ${data.text}` });
    chip.style.setProperty("--h", tone);
    const segment = { index: data.index, start: data.start_s, end: data.end_s, hue: tone, chip, on: false, first: placed && !twin, shown: twin?.index ?? data.index };
    if (placed) chip.addEventListener("click", (event) => { event.stopPropagation(); this.dispatchEvent(new CustomEvent("play", { detail: segment })); });
    else chip.disabled = true;
    this.segments.push(segment);
    this.line().append(chip);
    segment.sentence = this.sentence;
    if (segment.first) {
      const bar = make("i");
      const whole = this.open?.recording.duration_s || 1;
      bar.style.setProperty("--h", tone);
      bar.style.left = `${(100 * segment.start) / whole}%`;
      bar.style.width = `${(100 * (segment.end - segment.start)) / whole}%`;
      segment.bar = bar;
      this.lane.append(bar);
    }
    this.dispatchEvent(new Event("changed"));
  }

  on_heard(data) {
    const segment = this.segments[data.index];
    if (!segment) return;
    segment.chip.classList.remove("cited");
    segment.start = data.start_s;
    segment.end = data.end_s;
    if (PLAYED[data.played]) {
      segment.chip.after(make("span", { class: "why", text: ` (${PLAYED[data.played]})` }));
      segment.chip.title = PLAYED[data.played];
    }
    this.lit(segment, true);
  }

  on_unheard(data) {
    const segment = this.segments[data.index];
    segment?.chip.classList.add("unheard");
    segment?.chip.after(make("span", { class: "why", text: ` (not heard: ${data.why})` }));
    if (segment?.bar) segment.bar.classList.add("silent");
  }

  on_note(data) {
    if (data.what === "forced_answer" || data.what === "engine_failed") this.note(data.why);
  }

  on_finished(data) {
    this.end = data;
    const verdict = this.truth === null ? "" : (data.choice ?? data.answer) === this.truth ? "right" : "wrong";
    const said = data.answer === null ? make("b", { class: "wrong", text: "No answer" }) : make("b", { class: verdict, text: data.answer });
    const facts = [data.answer === null || data.stop !== "answered" ? data.says : "", verdict === "wrong" ? `the truth is: ${this.truth}` : verdict];
    if (this.open?.choices.length && data.answer !== null && data.choice === null) facts.push("none of the choices");
    const n = data.segments.length;
    const again = this.open?.mode === "interleaved" ? `${n} ${n === 1 ? "segment" : "segments"}, ${seconds(data.heard_s)} s heard again` : "";
    facts.push(again, `${data.n_tokens} tokens`);
    this.answer.replaceChildren(make("span", { class: "soft", text: "Answer" }), said, make("span", { class: "facts", text: facts.filter(Boolean).join(" · ") }));
    this.answer.hidden = false;
    for (const item of this.given.children) item.classList.toggle("chosen", item.textContent === data.choice);
    this.finish();
  }

  // Over, for whatever reason; with a sentence when it was not meant to be.
  finish(sentence = "") {
    if (this.hearing) this.lit(this.hearing, false);
    this.over = true;
    this.thought.classList.remove("caret");
    this.wrong.textContent = sentence;
    this.wrong.hidden = !sentence;
    this.button.textContent = "Close";
    this.button.setAttribute("aria-label", "Take this answer away");
    this.dispatchEvent(new Event("changed"));
  }

  // A segment is lit while the model hears it, and long enough to be seen.
  lit(segment, on) {
    this.hearing = on ? segment : null;
    if (on) segment.litAt = performance.now();
    const wait = on ? 0 : Math.max(0, 400 - (performance.now() - segment.litAt));
    clearTimeout(segment.timer);
    const act = () => {
      segment.chip.classList.toggle("hearing", on);
      this.dispatchEvent(new CustomEvent("light", { detail: { index: segment.shown, on } }));
    };
    if (wait) segment.timer = setTimeout(act, wait);
    else act();
  }

  note(text) {
    this.line().append(make("span", { class: "why", text: ` (${text}) ` }));
  }

  line() {
    if (!this.sentence) {
      this.sentence = make("span", { class: "sentence" });
      this.thought.append(this.sentence);
    }
    return this.sentence;
  }

  // Sentences end behind a full stop, a semicolon, a question or exclamation mark that white space follows.
  write(text, author) {
    for (const part of text.split(/(?<=[.!?;]\s)|(?=\s)(?<=[.!?;])/u)) {
      if (!part) continue;
      const line = this.line();
      if (/^\s/u.test(part) && /[.!?;]$/u.test(line.textContent)) this.sentence = null;
      if (!this.thought.textContent && !part.trim()) continue;
      this.line().append(author ? make("span", { class: "why", text: part }) : part);
      if (/[.!?;]\s+$/u.test(part)) this.sentence = null;
    }
  }

  // The playhead is here: what cites this second lights up.
  at(time, playing) {
    const here = new Set();
    for (const segment of this.segments) {
      if (segment.start === null) continue;
      const now = playing && segment.start <= time && time < segment.end;
      segment.chip.classList.toggle("now", now);
      if (now && segment.sentence) here.add(segment.sentence);
      segment.bar?.classList.toggle("on", now);
    }
    for (const line of this.thought.querySelectorAll(".sentence")) line.classList.toggle("here", here.has(line) || line === this.reading);
  }

  jump(index) {
    const segment = this.segments.find((one) => one.shown === index);
    if (!segment) return;
    segment.chip.scrollIntoView({ block: "center", behavior: "smooth" });
    segment.chip.focus({ preventScroll: true });
    segment.sentence?.classList.add("jumped");
    setTimeout(() => segment.sentence?.classList.remove("jumped"), 2500);
    return segment;
  }
}
