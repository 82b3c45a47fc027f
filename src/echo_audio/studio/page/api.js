// Talking to the server. Whatever goes wrong comes out as an Error whose message is a sentence for people.

let key = "";

export class Refusal extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

async function askForKey() {
  const dialog = document.getElementById("key");
  dialog.showModal();
  await new Promise((done) => dialog.addEventListener("close", done, { once: true }));
  key = document.getElementById("keytext").value.trim();
  document.getElementById("keytext").value = "";
  return dialog.returnValue === "ok" && key !== "";
}

// A response with a good status. Asks for the API key when the server wants one.
export async function request(path, options = {}) {
  for (;;) {
    let response;
    try {
      const headers = { ...options.headers, ...(key ? { authorization: `Bearer ${key}` } : {}) };
      response = await fetch(path, { ...options, headers, cache: "no-store" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Refusal("The server cannot be reached. Is echo-audio still running?");
    }
    if (response.ok) return response;
    if (response.status === 401 && (await askForKey())) continue;
    throw new Refusal(await sentence(response), response.status);
  }
}

async function sentence(response) {
  let said = `The server answered ${response.status}.`;
  try {
    said = (await response.json()).error.message;
  } catch {
    // not one of ours: a proxy's page, perhaps
  }
  return said.charAt(0).toUpperCase() + said.slice(1) + (/[.!?]$/.test(said) ? "" : ".");
}

export async function json(path, options) {
  return (await request(path, options)).json();
}

export function post(values, signal) {
  return { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(values), signal };
}

const PATIENCE_MS = 45_000; // the server says every ten seconds that it is alive

// Calls `told(name, data)` for every event of a listening, as they come.
export async function listen(ask, told, signal) {
  const stalled = new AbortController();
  const both = AbortSignal.any ? AbortSignal.any([signal, stalled.signal]) : signal;
  let timer = setTimeout(() => stalled.abort(), PATIENCE_MS);
  let over = false;
  try {
    const response = await request("/v1/listen", post(ask, both));
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let held = "";
    for (;;) {
      const { value, done } = await reader.read();
      clearTimeout(timer);
      if (done) break;
      timer = setTimeout(() => stalled.abort(), PATIENCE_MS);
      const frames = (held + value).split("\n\n");
      held = frames.pop();
      for (const [name, data] of frames.map(parse).filter(Boolean)) {
        if (name === "error") throw new Refusal(data.message.charAt(0).toUpperCase() + data.message.slice(1) + ".", data.status);
        over ||= name === "finished";
        told(name, data);
      }
    }
  } catch (error) {
    if (error instanceof Refusal) throw error;
    if (signal.aborted) throw new Refusal("Stopped.");
    if (stalled.signal.aborted) throw new Refusal("The server has said nothing for 45 seconds. What came so far is shown; ask again.");
    throw new Refusal("The connection broke off before the answer. What came so far is shown; ask again.");
  } finally {
    clearTimeout(timer);
  }
  if (!over) throw new Refusal("The connection broke off before the answer. What came so far is shown; ask again.");
}

function parse(frame) {
  const fields = Object.fromEntries(
    frame.split("\n").filter((line) => line && !line.startsWith(":")).map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 2)]),
  );
  return fields.event ? [fields.event, JSON.parse(fields.data)] : null;
}
