// The recording: waveform, spectrogram, the segments as regions, and what is being played.

import WaveSurfer from "studio/vendor/wavesurfer";
import Regions from "studio/vendor/regions";
import Spectrogram from "studio/vendor/spectrogram";
import { $, clock, make } from "studio/dom";

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// From the card's colour to the accent's, so that both themes have a spectrogram of their own.
function colours() {
  const rgb = (name) => {
    const context = document.createElement("canvas").getContext("2d");
    context.fillStyle = css(name);
    const hex = context.fillStyle;
    return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16) / 255);
  };
  const [low, high, top] = [rgb("--field"), rgb("--accent"), rgb("--ink")];
  return Array.from({ length: 256 }, (_, i) => {
    const t = (i / 255) ** 1.5;
    const [a, b, u] = t < 0.65 ? [low, high, t / 0.65] : [high, top, ((t - 0.65) / 0.35) * 0.7];
    return [...a.map((from, c) => from + (b[c] - from) * u), 1];
  });
}

export class Player extends EventTarget {
  constructor(nonce) {
    super();
    this.nonce = nonce;
    this.blob = null;
    this.spans = [];
    this.until = null;
    this.ws = null;
    $("play").addEventListener("click", () => this.toggle());
  }

  get media() {
    return $("sound");
  }

  get duration() {
    return this.ws?.getDuration() ?? 0;
  }

  async show(blob, name) {
    if (this.blob === blob) return;
    this.blob = blob;
    $("name").textContent = name;
    $("deck").hidden = false;
    await this.draw();
  }

  async draw() {
    const at = this.ws ? this.ws.getCurrentTime() : 0;
    this.ws?.destroy();
    const media = make("audio", { id: "sound", preload: "auto" }); // a new one: wavesurfer would fetch what an old one had
    this.media.replaceWith(media);
    const height = innerWidth < 700 ? 72 : 104;
    this.regions = Regions.create();
    this.ws = WaveSurfer.create({
      container: $("wave"), media, height, waveColor: css("--wave"), progressColor: css("--played"), cursorColor: css("--ink"), cursorWidth: 2,
      barWidth: 2, barGap: 1, barRadius: 2, normalize: true, sampleRate: 16000, cspNonce: this.nonce,
      plugins: [this.regions, Spectrogram.create({ height: innerWidth < 700 ? 64 : 96, fftSamples: 512, labels: false, scale: "mel", frequencyMax: 8000, gainDB: 14, rangeDB: 70, colorMap: colours() })],
    });
    const ws = this.ws;
    ws.on("timeupdate", (time) => this.tick(time));
    ws.on("play", () => this.state());
    ws.on("pause", () => this.state());
    ws.on("finish", () => this.state());
    ws.on("interaction", () => (this.until = null));
    this.regions.on("region-clicked", (region, event) => {
      event.stopPropagation();
      this.dispatchEvent(new CustomEvent("segment", { detail: Number(region.id) }));
    });
    await ws.loadBlob(this.blob);
    if (ws !== this.ws) return; // drawn again meanwhile
    if (at) ws.setTime(Math.min(at, ws.getDuration()));
    this.put(this.spans);
    this.tick(ws.getCurrentTime());
  }

  clear() {
    this.stop();
    this.ws?.destroy();
    this.ws = this.blob = null;
    this.spans = [];
    $("deck").hidden = true;
  }

  // Shows these segments: [{index, start, end, hue, on}].
  put(spans) {
    this.spans = spans;
    if (!this.ws?.getDuration()) return;
    const wanted = new Map(spans.map((span) => [String(span.index), span]));
    for (const region of this.regions.getRegions()) if (!wanted.has(region.id)) region.remove();
    for (const span of spans) this.paint(span);
  }

  paint(span) {
    const id = String(span.index);
    const color = `hsl(${span.hue} 75% 55% / ${span.on ? css("--region-on") : css("--region")})`;
    const there = this.regions.getRegions().find((region) => region.id === id);
    if (there) there.setOptions({ color, start: span.start, end: span.end });
    else this.regions.addRegion({ id, start: span.start, end: span.end, color, drag: false, resize: false });
  }

  light(index, on) {
    const span = this.spans.find((one) => one.index === index);
    if (!span || span.on === on) return;
    span.on = on;
    if (this.ws?.getDuration()) this.paint(span);
  }

  // Plays a span, or from where it is; resolves when it stops.
  async play(start, end) {
    if (!this.ws) return;
    if (start !== undefined) this.ws.setTime(start);
    this.until = end ?? null;
    try {
      await this.ws.play();
    } catch {
      return; // it was stopped before it began
    }
    await new Promise((done) => {
      this.ended?.();
      this.ended = done;
    });
  }

  stop() {
    this.until = null;
    this.ws?.pause();
    this.ended?.();
  }

  toggle() {
    if (this.ws?.isPlaying()) this.stop();
    else this.play().catch(() => {});
  }

  tick(time) {
    if (this.until !== null && time >= this.until) {
      const end = this.until;
      this.stop();
      this.ws.setTime(end);
    }
    $("time").textContent = `${clock(time)} of ${clock(this.duration)}`;
    this.dispatchEvent(new CustomEvent("time", { detail: { time, playing: this.ws?.isPlaying() ?? false } }));
  }

  state() {
    const playing = this.ws.isPlaying();
    $("play").textContent = playing ? "❚❚" : "▶";
    $("play").setAttribute("aria-label", playing ? "Pause" : "Play");
    if (!playing) {
      this.ended?.();
      this.ended = null;
    }
    this.tick(this.ws.getCurrentTime());
  }
}
