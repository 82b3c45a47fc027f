// One HTML file with what is on the desk: page, answers and sound.

import { request } from "studio/api";
import { $, trouble } from "studio/dom";

async function base64(blob) {
  const url = await new Promise((done, fail) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result);
    reader.onerror = () => fail(new Error("The recording cannot be read."));
    reader.readAsDataURL(blob);
  });
  return url.slice(url.indexOf(",") + 1);
}

export async function share(desk) {
  try {
    const recordings = [];
    const numbers = new Map();
    const groups = [];
    for (const run of inOrder(desk)) {
      if (!numbers.has(run.recording)) {
        numbers.set(run.recording, recordings.length);
        const blob = await run.recording.blob();
        recordings.push({ name: run.recording.name, flac: blob ? await base64(blob) : "" });
      }
      const value = { recording: numbers.get(run.recording), truth: run.truth, about: run.about, events: run.events };
      const place = run.element.parentElement;
      const last = groups.at(-1);
      if (place.classList.contains("compare") && last?.place === place) last.runs.push(value);
      else groups.push({ place, runs: [value] });
    }
    const saved = { made: new Date().toISOString().slice(0, 10), recordings, groups: groups.map((group) => group.runs) };
    const shell = await (await request("/page/shell.html")).text();
    const data = JSON.stringify(saved).replaceAll("<", "\\u003c");
    download(new Blob([shell.replace('id="saved">null<', () => `id="saved">${data}<`)], { type: "text/html" }), "echo.html");
  } catch (error) {
    trouble($("trouble"), error.message);
  }
}

function inOrder(desk) {
  const by = new Map(desk.runs.map((run) => [String(run.id), run]));
  return [...document.querySelectorAll("[data-run].run")].map((element) => by.get(element.dataset.run)).filter((run) => run?.open);
}

function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
