// Send the sound of a microphone to the server while somebody speaks, and tell the text as it comes.

const RATE = 16_000; // Hz
const READY_S = 10; // for the server to listen
const LAST_S = 20; // for the text of the last words, once the microphone is off
const TRANSCRIPTION = "conversation.item.input_audio_transcription.";

function base64(bytes) {
  let text = "";
  for (let start = 0; start < bytes.length; start += 8192) text += String.fromCharCode(...bytes.subarray(start, start + 8192));
  return btoa(text);
}

function open(key) {
  const url = new URL("/v1/realtime?intent=transcription", location.href);
  url.protocol = url.protocol.replace("http", "ws");
  return new WebSocket(url, key ? ["realtime", `openai-insecure-api-key.${key}`] : ["realtime"]);
}

/** A key that can be a part of a WebSocket's head, which the server's own key may not be. */
async function secretFor(key) {
  if (!key) return "";
  const response = await fetch("/v1/realtime/client_secrets", { method: "POST", headers: { "X-API-Key": key, "Content-Type": "application/json" } });
  if (!response.ok) throw new Error("the key is refused");
  return (await response.json()).value;
}

/** A turn as the chunks of /asr are: its text, its times and those of its words. */
function chunkOf(event) {
  const words = event.words ?? [];
  return { text: event.transcript, timestamp: [words[0]?.start ?? 0, words.at(-1)?.end ?? 0], words };
}

/** Sends samples to one session, and tells its text. What is captured before the server listens is sent then. */
class Session {
  #socket;
  #turns = new Map(); // what was told of those that go on
  #waiting = []; // events that are sent once the server listens
  #isWhole = true; // whether no text is missing
  #isReady = false;
  #isOver = () => {};

  constructor(key, transcription, told, done) {
    [this.told, this.done] = [told, done];
    this.#socket = open(key);
    const input = { format: { type: "audio/pcm", rate: RATE }, transcription };
    this.#socket.addEventListener("open", () => this.#send({ type: "session.update", session: { type: "transcription", audio: { input } } }));
    this.ready = new Promise((resolve, reject) => {
      const fail = (message) => {
        this.#isWhole = false;
        reject(new Error(message));
        this.#isOver();
      };
      setTimeout(() => reject(new Error("the server does not listen")), READY_S * 1000);
      this.#socket.addEventListener("close", () => fail("the server does not listen"));
      this.#socket.addEventListener("message", ({ data }) => this.#take(JSON.parse(data), resolve, fail));
    });
    this.ready.then(() => {
      this.#isReady = true;
      this.#waiting.splice(0).forEach((event) => this.#send(event));
    }, () => {});
  }

  #send(event) {
    if (this.#socket.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(event));
  }

  #take(event, ready, fail) {
    const item = event.item_id;
    if (event.type === "session.updated") ready();
    else if (event.type === "error" && event.error.code === "input_audio_buffer_commit_empty") this.#settle(null);
    else if (event.type === "error") fail(event.error.message);
    else if (event.type === "input_audio_buffer.speech_started") this.#turns.set(item, "");
    else if (event.type === `${TRANSCRIPTION}delta`) {
      this.#turns.set(item, (this.#turns.get(item) ?? "") + event.delta);
      this.told([...this.#turns.values()].join(" "));
    } else if (event.type === `${TRANSCRIPTION}completed`) {
      if (event.transcript) this.done(chunkOf(event));
      this.#settle(item);
    } else if (event.type === `${TRANSCRIPTION}failed`) {
      this.#isWhole = false;
      this.#settle(item);
    }
  }

  #settle(item) {
    this.#turns.delete(item);
    this.told([...this.#turns.values()].join(" "));
    if (!this.#turns.size) this.#isOver();
  }

  /** Send a block of 16-bit samples. */
  push(buffer) {
    const event = { type: "input_audio_buffer.append", audio: base64(new Uint8Array(buffer)) };
    if (this.#isReady) this.#send(event);
    else this.#waiting.push(event);
  }

  /** Wait for the text of all that was sent. Resolves to whether none is missing. */
  async end() {
    await this.ready.catch(() => {});
    if (this.#isWhole && this.#isReady) {
      const last = new Promise((resolve) => {
        this.#isOver = resolve;
        setTimeout(() => {
          this.#isWhole = false;
          resolve();
        }, LAST_S * 1000);
      });
      this.#send({ type: "input_audio_buffer.commit" }); // which is refused if nobody speaks
      await last;
    }
    const isWhole = this.#isWhole && this.#isReady;
    this.#socket.close(1000);
    return isWhole;
  }
}

/**
 * Listen to a MediaStream. `transcription` has the language and the keywords. `told` is called with the text of the turn that goes on,
 * and `done` with the chunk of one that is over. Resolves, once the sound is captured, to a function that ends it, and resolves to whether all
 * text has come.
 */
export async function listen(stream, transcription, key, told, done) {
  const context = new AudioContext({ sampleRate: RATE });
  try {
    const [secret] = await Promise.all([secretFor(key), context.audioWorklet.addModule("/page/capture.js")]);
    const capture = new AudioWorkletNode(context, "capture", { numberOfOutputs: 0 });
    context.createMediaStreamSource(stream).connect(capture);
    const session = new Session(secret, transcription, told, done);
    const isLast = new Promise((resolve) => {
      capture.port.addEventListener("message", ({ data }) => (data ? session.push(data) : resolve()));
    });
    capture.port.start();
    return async () => {
      capture.port.postMessage("end");
      await isLast;
      await context.close();
      return session.end();
    };
  } catch (error) {
    await context.close();
    throw error;
  }
}
