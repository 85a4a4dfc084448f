// Request a transcript from the server, and report its progress.

/** The fields of one server-sent event: its name and its data as an object. */
function parsed(block) {
  let name = "message", data = "";
  for (const line of block.split("\n")) {
    if (line.startsWith("event: ")) name = line.slice(7);
    else if (line.startsWith("data: ")) data += line.slice(6);
  }
  return { name, data: JSON.parse(data) };
}

/** An error that the server reports, with its code. */
export class Refused extends Error {
  constructor(error) {
    super(error.message);
    this.code = error.code;
  }
}

const BROKEN = { code: "internal", message: "the connection ended before the transcript did" };

function refusal(request) {
  try {
    return new Refused(JSON.parse(request.responseText).error);
  } catch {
    return new Refused({ code: "internal", message: `the server answered with status ${request.status}` });
  }
}

/** What the loaded model can do, as its entry in /v1/models says it; null if the server does not tell (yet). */
export async function abilities(key) {
  const response = await fetch("/v1/models", { headers: key ? { "X-API-Key": key } : {} });
  return response.ok ? (await response.json()).data[0] : null;
}

/**
 * Transcribe a Blob or a URL. `sending` is called with the share of a Blob that has been sent, and `progress` with
 * {done_s, total_s, text, chunks}, both repeatedly. Resolves to the transcript; rejects with Refused, or with AbortError after `signal`.
 *
 * Uses XMLHttpRequest, because fetch does not report how much it has sent.
 */
export function transcribe(source, options, key, sending, progress, signal) {
  return new Promise((resolve, reject) => {
    const file = source instanceof Blob;
    const request = new XMLHttpRequest();
    let read = 0; // characters of the response that have been parsed
    const take = () => {
      if (request.status !== 200) return;
      for (let end; (end = request.responseText.indexOf("\n\n", read)) >= 0; read = end + 2) {
        const event = parsed(request.responseText.slice(read, end));
        if (event.name === "error") reject(new Refused(event.data.error));
        else if (event.name === "done") resolve(event.data);
        else progress(event.data);
      }
    };
    request.open("POST", file ? `/asr?${new URLSearchParams(options)}` : "/asr");
    request.setRequestHeader("Accept", "text/event-stream");
    request.setRequestHeader("Content-Type", file ? "application/octet-stream" : "application/json");
    if (key) request.setRequestHeader("X-API-Key", key);
    if (file) request.upload.addEventListener("progress", (event) => sending(event.loaded / Math.max(1, event.total)));
    request.addEventListener("progress", take);
    request.addEventListener("load", () => {
      take();
      reject(request.status === 200 ? new Refused(BROKEN) : refusal(request)); // without effect after the transcript
    });
    request.addEventListener("error", () => reject(new Refused(BROKEN)));
    request.addEventListener("abort", () => reject(new DOMException("cancelled", "AbortError")));
    signal.addEventListener("abort", () => request.abort());
    request.send(file ? source : JSON.stringify({ url: source, ...options }));
  });
}
