// Recordings on their way to the server and back: files, the microphone, the examples that ship with Echo.

import { json, request } from "studio/api";

// What the server keeps: {id, name, duration_s, blob()}. The sound that is played is what the model hears: 16 kHz, mono.
function kept(file) {
  let sound = null;
  return {
    id: file.id,
    name: file.filename,
    duration_s: file.duration_s,
    blob: () => (sound ??= request(`/v1/files/${file.id}/content`).then((response) => response.blob())),
  };
}

export async function upload(content, name) {
  const send = async (blob) => {
    const form = new FormData();
    form.append("file", blob, name);
    form.append("purpose", "user_data");
    return kept(await json("/v1/files", { method: "POST", body: form }));
  };
  try {
    return await send(content);
  } catch (error) {
    if (error.status !== 415 && error.status !== 400) throw error;
    const decoded = await wavOf(content).catch(() => null); // the browser may know a format that the server does not
    if (!decoded) throw error;
    return send(decoded);
  }
}

export async function example(number) {
  return kept(await json(`/v1/examples/${number}`, { method: "POST" }));
}

// Any sound that the browser can decode, as a WAV file of 16 kHz, mono, 16 bit.
export async function wavOf(blob) {
  const context = new AudioContext({ sampleRate: 16000 });
  try {
    const audio = await context.decodeAudioData(await blob.arrayBuffer());
    const mono = new Float32Array(audio.length);
    for (let c = 0; c < audio.numberOfChannels; c++) audio.getChannelData(c).forEach((value, i) => (mono[i] += value / audio.numberOfChannels));
    const bytes = new DataView(new ArrayBuffer(44 + 2 * mono.length));
    const text = (at, word) => [...word].forEach((letter, i) => bytes.setUint8(at + i, letter.charCodeAt(0)));
    text(0, "RIFF"); bytes.setUint32(4, 36 + 2 * mono.length, true); text(8, "WAVEfmt "); bytes.setUint32(16, 16, true);
    bytes.setUint16(20, 1, true); bytes.setUint16(22, 1, true); bytes.setUint32(24, 16000, true); bytes.setUint32(28, 32000, true);
    bytes.setUint16(32, 2, true); bytes.setUint16(34, 16, true); text(36, "data"); bytes.setUint32(40, 2 * mono.length, true);
    mono.forEach((value, i) => bytes.setInt16(44 + 2 * i, Math.max(-1, Math.min(1, value)) * 32767, true));
    return new Blob([bytes.buffer], { type: "audio/wav" });
  } finally {
    context.close();
  }
}
