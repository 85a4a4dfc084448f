// The files to download, made from segments {start, end, text, speaker}.

const two = (value) => String(value).padStart(2, "0");

/** Seconds as m:ss. */
export function clock(seconds) {
  const whole = Math.floor(seconds);
  return `${Math.floor(whole / 60)}:${two(whole % 60)}`;
}

function stamp(seconds, point) {
  const ms = Math.round(seconds * 1000);
  const rest = String(ms % 1000).padStart(3, "0");
  return `${two(Math.floor(ms / 3600000))}:${two(Math.floor(ms / 60000) % 60)}:${two(Math.floor(ms / 1000) % 60)}${point}${rest}`;
}

/** The text without control characters, overrides of its direction, and arrows, which would end a subtitle. */
function plain(text) {
  const lines = text.replace(/[\t-\r\x1c-\x1f\x85\u2028\u2029]+/g, " ");
  return lines.replace(/[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]/g, "").replace(/-{2,}>/g, "->");
}

/** The text with nothing that a player of SubRip, which has no escapes, would read as markup. */
function unmarked(text) {
  return text.replace(/<(?=[\p{L}_/!?])([^<>]*)(>?)/gu, (_, tag, end) => `‹${tag}${end && "›"}`).replace(/\{(?=\\)/g, "(");
}

function escaped(text) {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

/** The text of a segment behind its speaker, if it has one. */
function said(one) {
  return one.speaker ? `${one.speaker}: ${one.text}` : one.text;
}

/** The media type of each format, and the function that makes its file from the segments and the server's response. */
export const FORMATS = {
  txt: ["text/plain", (segments) => segments.map((one) => plain(said(one))).join("\n") + "\n"],
  srt: ["application/x-subrip", (segments) =>
    segments.map((one, at) => `${at + 1}\n${stamp(one.start, ",")} --> ${stamp(one.end, ",")}\n${unmarked(plain(said(one)))}\n`).join("\n")],
  vtt: ["text/vtt", (segments) =>
    "WEBVTT\n" + segments.map((one) => `\n${stamp(one.start, ".")} --> ${stamp(one.end, ".")}\n${one.speaker ? `<v ${escaped(plain(one.speaker))}>` : ""}${escaped(plain(one.text))}\n`).join("")],
  json: ["application/json", (segments, answer) => {
    const chunks = answer.chunks.map((chunk, at) => ({ ...chunk, text: segments[at].text, ...(segments[at].speaker && { speaker: segments[at].speaker }) }));
    return JSON.stringify({ ...answer, text: segments.some((one) => one.edited) ? segments.map((one) => one.text).join(" ") : answer.text, chunks }, null, 2) + "\n";
  }],
};
