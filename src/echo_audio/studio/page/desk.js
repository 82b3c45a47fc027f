// What lies on the desk: the answers, the one that is chosen, and its recording under it.

import { Run } from "studio/run";
import { $, make, say, trouble } from "studio/dom";

export class Desk {
  constructor(player) {
    Object.assign(this, { player, runs: [], chosen: null, reading: null });
    player.addEventListener("segment", (event) => {
      const segment = this.chosen?.jump(event.detail);
      if (segment) this.play(this.chosen, segment);
    });
    player.addEventListener("time", (event) => this.chosen?.at(event.detail.time, event.detail.playing));
    $("readalong").addEventListener("click", () => (this.reading ? this.quiet() : this.readAlong()));
    document.addEventListener("keydown", (event) => this.key(event));
  }

  // A new answer about a recording ({name, blob(): Promise<Blob>}), shown in a place.
  add(where, about) {
    const run = new Run({ ...about, name: about.recording.name });
    this.runs.push(run);
    run.addEventListener("choose", () => this.choose(run));
    run.addEventListener("changed", () => this.changed(run));
    run.addEventListener("opened", () => this.remember(run));
    run.addEventListener("light", (event) => run === this.chosen && this.player.light(event.detail.index, event.detail.on));
    run.addEventListener("play", (event) => this.play(run, event.detail));
    run.addEventListener("close", () => (run.over ? this.remove(run) : run.cancel?.()));
    where.append(run.element);
    return run;
  }

  async choose(run) {
    if (this.chosen === run) return;
    this.quiet();
    this.chosen = run;
    for (const one of this.runs) one.element.classList.toggle("chosen", one === run);
    for (const item of $("history").querySelectorAll("[data-run]")) {
      item.setAttribute("aria-current", String(item.dataset.run === String(run.id)));
    }
    this.player.put(run.spans());
    try {
      const blob = await run.recording.blob();
      if (this.chosen !== run) return;
      trouble($("trouble"), blob ? "" : "The recording of this answer is not here, so nothing can be played.");
      if (blob) await this.player.show(blob, run.recording.name);
      else this.player.clear();
    } catch (error) {
      trouble($("trouble"), error.message);
    }
    this.changed(run);
  }

  changed(run) {
    if (run === this.chosen) this.player.put(run.spans());
    $("readalong").hidden = !this.chosen?.segments.length;
    if (run.over) this.remember(run);
    this.told?.(run);
  }

  async play(run, segment) {
    await this.choose(run);
    this.quiet();
    await this.player.play(segment.start, segment.end);
  }

  remove(run) {
    this.runs = this.runs.filter((one) => one !== run);
    const group = run.element.parentElement;
    run.element.remove();
    if (group?.classList.contains("compare") && !group.children.length) group.remove();
    if (this.chosen === run) {
      this.quiet();
      this.chosen = null;
      this.player.put([]);
    }
  }

  // The line of an answer in the list at the side; it stays when its card is taken away.
  remember(run) {
    if (this.lists === false) return;
    let item = $("history").querySelector(`[data-run="${run.id}"]`);
    if (!item) {
      item = make("button", { type: "button", data: { run: run.id }, on: { click: () => this.bring(run) } });
      $("history").prepend(make("li", {}, item));
    }
    const said = run.end ? (run.end.answer ?? "no answer") : run.over ? "stopped" : "…";
    item.replaceChildren(run.title.textContent, make("small", { text: `${said} · ${run.how.firstChild?.textContent ?? ""} · ${run.name}` }));
    item.setAttribute("aria-current", String(run === this.chosen));
  }

  bring(run) {
    if (!run.element.isConnected) {
      $("runs").prepend(run.element);
      this.runs.push(run);
    }
    this.choose(run);
    run.element.scrollIntoView({ block: "nearest", behavior: "smooth" });
  }

  // Reads the text at the pace of a reader, and plays each segment where it stands.
  async readAlong() {
    const run = this.chosen;
    const mine = (this.reading = {});
    $("readalong").textContent = "Stop reading";
    say("Reading along");
    for (const line of run.thought.querySelectorAll(".sentence")) {
      run.reading = line;
      run.at(0, false);
      line.scrollIntoView({ block: "nearest", behavior: "smooth" });
      for (const node of line.childNodes) {
        if (this.reading !== mine) return;
        const segment = run.segments.find((one) => one.chip === node);
        if (segment?.start !== undefined && segment?.start !== null && this.player.blob) await this.player.play(segment.start, segment.end);
        else await new Promise((done) => setTimeout(done, 190 * node.textContent.split(/\s+/).filter(Boolean).length));
      }
    }
    if (this.reading === mine) this.quiet();
  }

  quiet() {
    this.reading = null;
    $("readalong").textContent = "Read along";
    if (this.chosen) this.chosen.reading = null;
    this.player.stop();
  }

  key(event) {
    const typing = event.target.closest("input, textarea, select, dialog");
    if (event.key === "Escape") {
      for (const run of this.runs) if (!run.over) run.cancel?.();
      this.quiet();
    }
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === " " && !event.target.closest("button, summary")) {
      event.preventDefault();
      this.player.toggle();
    } else if (event.key === "[" || event.key === "]") this.step(event.key === "]" ? 1 : -1);
    else if (event.key === "/" && !$("ask").hidden) {
      event.preventDefault();
      $("question").focus();
    }
  }

  step(by) {
    const run = this.chosen;
    const all = run?.segments.filter((one) => one.start !== null) ?? [];
    if (!all.length) return;
    const at = all.findIndex((one) => one.chip === document.activeElement);
    const next = all[at < 0 ? (by > 0 ? 0 : all.length - 1) : (at + by + all.length) % all.length];
    next.chip.focus();
    this.play(run, next).catch(() => {});
  }
}
