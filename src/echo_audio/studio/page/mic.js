// The microphone: shows what it hears, gives a recording.

import WaveSurfer from "studio/vendor/wavesurfer";
import Record from "studio/vendor/record";
import { $, trouble } from "studio/dom";

const WHY = {
  NotAllowedError: "The browser does not let this page use the microphone. Allow it beside the address, and press Record again.",
  NotFoundError: "There is no microphone here. Connect one, or drop a file.",
  NotReadableError: "Another program holds the microphone. Close it, and press Record again.",
};

// Calls `use(blob)` with what was recorded.
export function microphone(nonce, use) {
  let surfer = null;
  let record = null;
  let wanted = false;

  function close() {
    surfer?.destroy();
    surfer = record = null;
    $("mic").hidden = true;
  }

  $("record").addEventListener("click", async () => {
    trouble($("trouble"), "");
    if (!navigator.mediaDevices?.getUserMedia) {
      trouble($("trouble"), "Browsers give the microphone to pages on https or on this machine only. Drop a file instead.");
      return;
    }
    $("mic").hidden = false;
    $("drop").hidden = true;
    surfer = WaveSurfer.create({ container: $("micwave"), height: 90, waveColor: getComputedStyle(document.documentElement).getPropertyValue("--accent").trim(), barWidth: 3, barGap: 2, barRadius: 3, cspNonce: nonce });
    record = surfer.registerPlugin(Record.create({ scrollingWaveform: true, renderRecordedAudio: false }));
    record.on("record-progress", (ms) => ($("mictime").textContent = `${(ms / 1000).toFixed(1)} s`));
    record.on("record-end", (blob) => setTimeout(() => { // once the plugin itself has let go of the microphone
      close();
      if (wanted) use(blob);
      else $("drop").hidden = false;
    }));
    try {
      await record.startRecording();
      $("micstop").focus();
    } catch (error) {
      close();
      $("drop").hidden = false;
      trouble($("trouble"), WHY[error.name] ?? WHY[error.cause?.name] ?? "The microphone cannot be used here. Drop a file instead.");
    }
  });
  const stop = (use) => () => {
    wanted = use;
    record?.stopRecording();
  };
  $("micstop").addEventListener("click", stop(true));
  $("miccancel").addEventListener("click", stop(false));
}
