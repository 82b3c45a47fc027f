// A shared file: everything is inside it, and nothing is fetched.

import { $, make } from "studio/dom";

export function begin(desk) {
  const saved = JSON.parse($("saved").textContent);
  $("drop").hidden = true;
  $("other").hidden = $("none").hidden = true;
  $("about").textContent = `shared on ${saved.made}`;
  document.querySelector("footer").firstChild.before("Made with Echo's studio · ");
  const recordings = saved.recordings.map(({ name, flac }) => {
    const bytes = flac && Uint8Array.from(atob(flac), (c) => c.charCodeAt(0));
    return { name, blob: async () => (bytes ? new Blob([bytes], { type: "audio/flac" }) : null) };
  });
  let first = null;
  for (const group of saved.groups) {
    const place = group.length > 1 ? make("div", { class: "compare" }) : $("runs");
    if (place !== $("runs")) $("runs").append(place);
    for (const one of group) {
      const run = desk.add(place, { recording: recordings[one.recording], truth: one.truth, about: one.about });
      for (const [name, data] of one.events) run.feed(name, data);
      if (!run.over) run.finish("This answer broke off.");
      run.button.hidden = true;
      first ??= run;
    }
  }
  if (first) desk.choose(first);
}
