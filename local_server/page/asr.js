// Asks the server for a transcript, and hands on what it tells meanwhile.

/** The fields of one server-sent event: its name and its data as an object. */
function parsed(block) {
  let name = "message", data = "";
  for (const line of block.split("\n")) {
    if (line.startsWith("event: ")) name = line.slice(7);
    else if (line.startsWith("data: ")) data += line.slice(6);
  }
  return { name, data: JSON.parse(data) };
}

/** An error of the server's, with its code. */
export class Refused extends Error {
  constructor(error) {
    super(error.message);
    this.code = error.code;
  }
}

async function refusal(answer) {
  try {
    return new Refused((await answer.json()).error);
  } catch {
    return new Refused({ code: "internal", message: `the server answered with status ${answer.status}` });
  }
}

/**
 * Transcribe a Blob or an address. `progress` gets {done_s, total_s, text, chunks} again and again.
 * Resolves to the whole transcript; rejects with Refused, or AbortError after `signal`.
 */
export async function transcribe(source, options, key, progress, signal) {
  const headers = { Accept: "text/event-stream" };
  if (key) headers["X-API-Key"] = key;
  let address = "/asr", body;
  if (source instanceof Blob) {
    headers["Content-Type"] = "application/octet-stream";
    address += `?${new URLSearchParams(options)}`;
    body = source;
  } else {
    headers["Content-Type"] = "application/json";
    body = JSON.stringify({ url: source, ...options });
  }
  const answer = await fetch(address, { method: "POST", headers, body, signal });
  if (!answer.ok) throw await refusal(answer);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Refused({ code: "internal", message: "the connection ended before the transcript did" });
    held += value;
    const blocks = held.split("\n\n");
    held = blocks.pop();
    for (const block of blocks) {
      const event = parsed(block);
      if (event.name === "error") throw new Refused(event.data.error);
      if (event.name === "done") return event.data;
      progress(event.data);
    }
  }
}
