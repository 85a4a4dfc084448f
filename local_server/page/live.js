// Send the sound of a microphone to the server while somebody speaks, and tell the text as it comes.

const RATE = 16_000; // Hz
const LAST_S = 10; // for the text of the last words, once the microphone is off
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

/** A turn as the chunks of /asr are: its text, its times and those of its words. */
function chunkOf(event) {
  const words = event.words ?? [];
  return { text: event.transcript, timestamp: [words[0]?.start ?? 0, words.at(-1)?.end ?? 0], words };
}

/**
 * Listen to a MediaStream. `transcription` has the language and the keywords. `told` is called with the text of the turn that goes on,
 * and `done` with the chunk of one that is over. Resolves, once the server listens, to a function that ends it and waits for the last text.
 * Rejects if the server cannot be reached or refuses.
 */
export async function listen(stream, transcription, key, told, done) {
  const socket = open(key);
  const context = new AudioContext({ sampleRate: RATE });
  const turns = new Map(); // what was told of those that go on
  let is_over = () => {};
  const send = (event) => { if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(event)); };
  const settle = (item) => {
    turns.delete(item);
    told([...turns.values()].join(" "));
    if (!turns.size) is_over();
  };
  const ready = new Promise((resolve, reject) => {
    socket.addEventListener("close", () => { reject(new Error("the server does not listen")); is_over(); });
    socket.addEventListener("message", ({ data }) => {
      const event = JSON.parse(data);
      if (event.type === "session.updated") resolve();
      else if (event.type === "error" && event.error.code === "input_audio_buffer_commit_empty") is_over();
      else if (event.type === "error") reject(new Error(event.error.message));
      else if (event.type === "input_audio_buffer.speech_started") turns.set(event.item_id, "");
      else if (event.type === `${TRANSCRIPTION}delta`) {
        turns.set(event.item_id, (turns.get(event.item_id) ?? "") + event.delta);
        told([...turns.values()].join(" "));
      } else if (event.type === `${TRANSCRIPTION}completed`) {
        if (event.transcript) done(chunkOf(event));
        settle(event.item_id);
      } else if (event.type === `${TRANSCRIPTION}failed`) settle(event.item_id);
    });
  });
  const input = { format: { type: "audio/pcm", rate: RATE }, transcription };
  socket.addEventListener("open", () => send({ type: "session.update", session: { type: "transcription", audio: { input } } }));
  const stop = async () => {
    await context.close();
    if (socket.readyState === WebSocket.OPEN) {
      const last = new Promise((resolve) => {
        is_over = resolve;
        setTimeout(resolve, LAST_S * 1000);
      });
      if (!turns.size) is_over(); // there is no text to wait for
      else send({ type: "input_audio_buffer.commit" });
      await last;
    }
    socket.close(1000);
  };
  try {
    await Promise.all([ready, context.audioWorklet.addModule("/page/capture.js")]);
  } catch (error) {
    await stop();
    throw error;
  }
  const capture = new AudioWorkletNode(context, "capture", { numberOfOutputs: 0 });
  capture.port.addEventListener("message", ({ data }) => send({ type: "input_audio_buffer.append", audio: base64(new Uint8Array(data)) }));
  capture.port.start();
  context.createMediaStreamSource(stream).connect(capture);
  return stop;
}
