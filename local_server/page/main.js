// The page: choose a source, show its transcript while it arrives, then play, search, edit and download it.

import { abilities, Refused, transcribe } from "/page/asr.js";
import { clock, FORMATS } from "/page/formats.js";
import { listen } from "/page/live.js";
import { draw, peaksOf } from "/page/wave.js";

const COLUMNS = 400;
const UNSURE = 0.5; // probability of a word below which it is marked
const GOLDEN_ANGLE = 137.5; // degrees between the colours of two speakers, which never come close
const STEP_S = 5; // by which an arrow key moves the player
const LONGEST_S = 3600; // the longest audio whose waveform is drawn: the browser decodes all of it for that
const LARGEST = 64 * 1024 ** 2; // bytes of the largest file of unknown length whose waveform is drawn
const at = (name) => document.getElementById(name);
const player = at("player"), text = at("text"), wave = at("wave");

let peaks = null;
let gaps = [];
let answer = null; // the server's response, once it is complete
let length = 0; // seconds of audio; 0 if not known
let words = []; // {start, end, element}
let voices = []; // the speakers, in the order of first words
let named = new Map(); // the names that the user gave to speakers
let running = null; // the AbortController of the current request
let recorder = null;
let can = null; // what the model can do; null until the server tells

function show(name, visible) {
  at(name).hidden = !visible;
}

function fail(error) {
  at("error").textContent = error instanceof Refused ? `${error.code}: ${error.message}` : String(error.message || error);
  show("error", true);
  if (error.code === "unauthorized") {
    show("keyed", true);
    at("key").focus();
  }
}

/** Ask what the model can do, and offer that alone. */
async function look() {
  if (!at("keyed").hidden && !at("key").value) return; // the server would count a request without a key as refused
  const model = await abilities(at("key").value).catch(() => null);
  can = model?.capabilities ?? null;
  if (!can) return;
  at("model").textContent = model.id;
  for (const [name, is_there] of [["tasks", can.translates], ["names", can.hotwords], ["voices", can.diarization]]) show(name, is_there);
  at("languages").replaceChildren(...can.languages.map((code) => new Option(code)));
  show("spoken", can.languages.length !== 1);
  at("language").placeholder = can.tells_language ? "find out" : "its code";
}

function redraw() {
  const whole = length || player.duration || 1;
  draw(wave, peaks, Math.min(1, player.currentTime / whole), gaps.map((gap) => [gap.start / whole, gap.end / whole]));
  wave.setAttribute("aria-valuemax", Math.round(whole));
  wave.setAttribute("aria-valuenow", Math.round(player.currentTime));
  wave.setAttribute("aria-valuetext", clock(player.currentTime));
  at("clock").textContent = `${clock(player.currentTime)} / ${clock(whole)}`;
}

function seek(seconds) {
  player.currentTime = Math.max(0, seconds);
  follow();
}

/** Return the index of the last word that starts before `now`, in seconds; −1 if there is none. */
function wordAt(now) {
  let low = 0, high = words.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (words[middle].start <= now + 0.01) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

/** Highlight the word that is being played. */
function follow() {
  const now = player.currentTime;
  const current = words[wordAt(now)];
  for (const old of text.querySelectorAll(".now")) old.classList.remove("now");
  if (current && now <= current.end + 0.3) current.element.classList.add("now");
  redraw();
}

/** Move the player by `count` words, or lines; back if negative. */
function step(count, lines) {
  const now = wordAt(player.currentTime);
  let to = Math.min(words.length - 1, Math.max(0, now + count));
  if (lines) {
    const starts = words.flatMap((word, number) => (word.element.previousElementSibling ? [] : [number]));
    const line = starts.findLastIndex((start) => start <= now);
    to = starts[Math.min(starts.length - 1, Math.max(0, line + count))];
  }
  if (!words[to]) return;
  seek(words[to].start);
  words[to].element.scrollIntoView({ block: "nearest" });
}

function told(chunk) {
  const [start, end] = chunk.timestamp;
  const line = document.createElement("p");
  const place = document.createElement("button");
  place.type = "button";
  place.textContent = clock(start);
  place.setAttribute("aria-label", `Play from ${clock(start)}`);
  place.addEventListener("click", () => seek(start));
  const said = document.createElement("span");
  said.className = "said";
  said.dataset.start = start;
  said.dataset.end = end;
  let place_in_text = 0; // words are separated as in the text, because not every script uses spaces
  // Of a model that times no words, the chunk as a whole is played and lit up.
  const [all, words_of] = [{ word: chunk.text.trim(), start, end }, chunk.words ?? []];
  for (const word of words_of.length ? words_of : [all]) {
    const begins = chunk.text.indexOf(word.word, place_in_text);
    if (begins > place_in_text) said.append(chunk.text.slice(place_in_text, begins));
    if (begins >= 0) place_in_text = begins + word.word.length;
    const element = document.createElement("span");
    element.className = word.probability < UNSURE ? "word unsure" : "word";
    element.textContent = word.word;
    element.title = clock(word.start);
    if (word.probability !== undefined) element.title += `, ${Math.round(100 * word.probability)} % sure`;
    element.addEventListener("click", () => seek(word.start));
    said.append(element);
    words.push({ start: word.start, end: word.end, element });
  }
  said.append(chunk.text.slice(place_in_text));
  said.dataset.text = said.textContent;
  const column = document.createElement("div");
  if (chunk.speaker) column.append(...spoken_by(line, chunk.speaker));
  column.append(said);
  line.append(place, column);
  text.append(line);
}

/** Give a line the colour of its speaker. Return the speaker's name, which can be changed, if the line begins a turn. */
function spoken_by(line, speaker) {
  const before = text.lastElementChild?.dataset.speaker;
  line.dataset.speaker = speaker;
  line.style.setProperty("--voice", `hsl(${(GOLDEN_ANGLE * voices.indexOf(speaker)) % 360} 60% 50%)`);
  if (before === speaker) return [];
  const name = document.createElement("span");
  name.className = "speaker";
  name.textContent = named.get(speaker) ?? speaker;
  name.contentEditable = "true";
  name.addEventListener("keydown", (event) => { if (event.key === "Enter") event.preventDefault(); });
  name.setAttribute("role", "textbox");
  name.setAttribute("aria-label", "Name of the speaker");
  name.addEventListener("input", () => {
    named.set(speaker, name.textContent.trim() || speaker);
    for (const other of text.querySelectorAll(`[data-speaker="${speaker}"] .speaker`)) {
      if (other !== name) other.textContent = named.get(speaker);
    }
  });
  return [name];
}

function segments() {
  return [...text.querySelectorAll(".said")].map((said) => ({
    start: Number(said.dataset.start), end: Number(said.dataset.end), text: said.textContent.replace(/\s+/g, " ").trim(),
    edited: said.textContent !== said.dataset.text, speaker: speaker_of(said),
  }));
}

/** The name of who says a line, or undefined where speakers are not told apart. */
function speaker_of(said) {
  const speaker = said.closest("p").dataset.speaker;
  return speaker && (named.get(speaker) ?? speaker);
}

function progress(news) {
  show("result", true);
  length = news.total_s || length;
  at("progress").removeAttribute("value");
  if (news.total_s) at("progress").value = news.done_s / news.total_s;
  at("told").textContent = `${clock(news.done_s)}${news.total_s ? ` of ${clock(news.total_s)}` : ""}`;
  news.chunks.forEach(told);
}

function finish(whole) {
  answer = whole;
  length = whole.duration;
  gaps = whole.coverage.gaps;
  at("gaps").replaceChildren(...gaps.map((gap) => {
    const item = document.createElement("li"), jump = document.createElement("button");
    jump.type = "button";
    jump.textContent = `speech without text from ${clock(gap.start)} to ${clock(gap.end)}`;
    jump.addEventListener("click", () => seek(gap.start));
    item.append(jump);
    return item;
  }));
  if (whole.speakers) {
    voices = whole.speakers; // who speaks is known now alone
    words = [];
    text.replaceChildren();
    whole.chunks.forEach(told);
  }
  show("result", true);
  at("model").textContent = `${whole.model}, ${whole.account.device}`;
  if (!whole.chunks.length) text.textContent = "No speech was heard.";
  redraw();
}

/** End what goes on, and forget the last transcript. */
function clear() {
  running?.abort();
  [peaks, gaps, answer, length, words] = [null, [], null, 0, []];
  [voices, named] = [[], new Map()];
  text.replaceChildren();
  at("gaps").replaceChildren();
  at("search").value = at("hits").textContent = "";
  if (player.src.startsWith("blob:")) URL.revokeObjectURL(player.src);
  player.removeAttribute("src");
  show("error", false);
  show("result", false);
}

async function start(source, playable) {
  clear();
  const mine = new AbortController();
  running = mine;
  show("status", true);
  at("progress").removeAttribute("value");
  at("told").textContent = source instanceof Blob ? "sending…" : "downloading…";
  let heard = false; // whether the server has sent anything
  const sending = (share) => {
    if (heard || running !== mine) return;
    at("progress").value = share;
    at("told").textContent = `sending, ${Math.floor(100 * share)} %`;
  };
  // The browser contacts another host only when the user plays its audio.
  player.preload = source instanceof Blob ? "auto" : "none";
  player.src = playable;
  if (source instanceof Blob) outline(source, mine);
  try {
    if (!can) await look();
    mine.signal.throwIfAborted();
    const options = { timestamps: can?.word_times ? "word" : "segment" };
    const chosen = { language: "spoken", hotwords: "names", task: "tasks" }; // an input, and what hides it
    for (const [name, whole] of Object.entries(chosen)) {
      if (at(name).value.trim() && !at(whole).hidden) options[name] = at(name).value.trim();
    }
    if (at("diarize").checked && !at("voices").hidden) options.diarize = true;
    const news = (one) => {
      heard = true;
      progress(one);
    };
    finish(await transcribe(source, options, at("key").value, sending, news, mine.signal));
  } catch (error) {
    if (error.name !== "AbortError") fail(error);
  } finally {
    if (running === mine) show("status", false);
  }
}

/** Draw a file's waveform, once the player knows its length. */
async function outline(file, mine) {
  await new Promise((known) => {
    for (const name of ["loadedmetadata", "error"]) player.addEventListener(name, known, { once: true });
  });
  if (running !== mine || (Number.isFinite(player.duration) ? player.duration > LONGEST_S : file.size > LARGEST)) return;
  const found = await peaksOf(file, COLUMNS);
  if (running !== mine) return;
  peaks = found;
  redraw();
}

function take(file) {
  if (file) start(file, URL.createObjectURL(file));
}

/** Record the microphone, with captions while somebody speaks. What has none is sent as a file at the end. */
async function record() {
  if (recorder) {
    recorder.stop();
    return;
  }
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
    const parts = [];
    recorder = new MediaRecorder(stream);
    recorder.addEventListener("dataavailable", (event) => parts.push(event.data));
    const stop = await caption(stream).catch(() => null); // the recording and the captions have one beginning
    recorder.addEventListener("stop", async () => {
      const type = recorder.mimeType;
      recorder = null;
      at("record").setAttribute("aria-pressed", "false");
      at("record").textContent = "● Record";
      const is_whole = await stop?.();
      stream.getTracks().forEach((track) => track.stop());
      const file = new Blob(parts, { type });
      if (is_whole && words.length) keep(file);
      else take(file);
    });
    recorder.start(500);
    at("record").setAttribute("aria-pressed", "true");
    at("record").textContent = "■ Stop";
  } catch (error) {
    recorder = null;
    fail(new Error(`The microphone cannot be used: ${error.message}`));
  }
}

/** Show what is said into a microphone while it is said. Resolves to a function that ends it; to null if it cannot be had. */
async function caption(stream) {
  if (!can) await look();
  const is_plain = !(at("diarize").checked && !at("voices").hidden) && at("task").value === "transcribe";
  if (!is_plain || !can?.word_times) return null; // only the whole recording tells these
  clear();
  const transcription = {};
  if (at("language").value.trim() && !at("spoken").hidden) transcription.language = at("language").value.trim();
  if (at("hotwords").value.trim() && !at("names").hidden) transcription.keywords = [at("hotwords").value.trim()];
  const open = document.createElement("p");
  open.id = "open";
  const guess = (line) => {
    show("result", true);
    open.textContent = line;
    text.append(open);
  };
  return listen(stream, transcription, at("key").value, guess, told);
}

/** Keep a recording whose captions are complete, to be played, searched, edited and downloaded. */
function keep(file) {
  at("open")?.remove();
  const chunks = segments().map(({ start, end, text: said }) => ({ timestamp: [start, end], text: said }));
  answer = { text: chunks.map((chunk) => chunk.text).join(" "), duration: words.at(-1).end, coverage: { gaps: [] }, chunks };
  length = 0; // the player knows it
  const mine = new AbortController();
  running = mine;
  player.preload = "auto";
  player.src = URL.createObjectURL(file);
  outline(file, mine);
}

function find() {
  const wanted = at("search").value.trim().toLowerCase();
  const plain = (value) => value.toLowerCase().replace(/[^\p{L}\p{N}' ]/gu, "");
  for (const { element } of words) element.classList.remove("found");
  const parts = plain(wanted).split(/\s+/).filter(Boolean);
  let hits = 0;
  for (let first = 0; parts.length && first + parts.length <= words.length; first++) {
    const match = parts.every((part, offset) => {
      const word = plain(words[first + offset].element.textContent);
      return offset === parts.length - 1 ? word.startsWith(part) : word === part;
    });
    if (!match) continue;
    for (let offset = 0; offset < parts.length; offset++) words[first + offset].element.classList.add("found");
    if (!hits++) words[first].element.scrollIntoView({ block: "center" });
  }
  at("hits").textContent = wanted ? `${hits} found` : "";
}

function download(format) {
  const [type, make] = FORMATS[format];
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([make(segments(), answer)], { type }));
  link.download = `transcript.${format}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

const drop = at("drop");
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", name === "dragover");
    if (name === "drop") take(event.dataTransfer.files[0]);
  });
}
at("file").addEventListener("change", (event) => take(event.target.files[0]));
at("address").addEventListener("submit", (event) => {
  event.preventDefault();
  start(at("url").value, at("url").value);
});
at("record").addEventListener("click", record);
at("cancel").addEventListener("click", () => running?.abort());
at("play").addEventListener("click", () => (player.paused ? player.play().catch(fail) : player.pause()));
at("edit").addEventListener("click", () => {
  const on = at("edit").getAttribute("aria-pressed") !== "true";
  at("edit").setAttribute("aria-pressed", String(on));
  for (const said of text.querySelectorAll(".said")) said.contentEditable = String(on);
});
at("search").addEventListener("input", find);
at("downloads").addEventListener("click", (event) => {
  if (event.target.dataset.format && answer) download(event.target.dataset.format);
});
wave.addEventListener("click", (event) => seek((event.offsetX / wave.clientWidth) * (length || player.duration || 0)));
player.addEventListener("timeupdate", follow);
for (const name of ["play", "pause"]) {
  player.addEventListener(name, () => { at("play").textContent = player.paused ? "▶ Play" : "❚❚ Pause"; });
}
text.addEventListener("keydown", (event) => {
  const steps = { ArrowLeft: [-1, false], ArrowRight: [1, false], ArrowUp: [-1, true], ArrowDown: [1, true] }[event.key];
  if (!steps || event.target.isContentEditable) return;
  step(...steps);
  event.preventDefault();
  event.stopPropagation();
});
document.addEventListener("keydown", (event) => {
  if (event.target.isContentEditable || event.target.closest("input, select, button") || at("result").hidden) return;
  if (event.key === " ") at("play").click();
  else if (event.key === "ArrowLeft") seek(player.currentTime - STEP_S);
  else if (event.key === "ArrowRight") seek(player.currentTime + STEP_S);
  else return;
  event.preventDefault();
});
window.addEventListener("resize", redraw);
at("key").addEventListener("change", look);
look();
