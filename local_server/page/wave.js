// The waveform: loudness by column, the part that has been played, and speech without text.

/** Return the peaks of a Blob's first channel, one for each of `columns`; null if the browser cannot decode it. */
export async function peaksOf(blob, columns) {
  const context = new OfflineAudioContext(1, 1, 16000);
  let samples;
  try {
    samples = (await context.decodeAudioData(await blob.arrayBuffer())).getChannelData(0);
  } catch {
    return null;
  }
  const peaks = new Float32Array(columns);
  const each = Math.max(1, Math.floor(samples.length / columns));
  for (let column = 0; column < columns; column++) {
    let peak = 0;
    const end = Math.min(samples.length, (column + 1) * each);
    for (let at = column * each; at < end; at++) peak = Math.max(peak, Math.abs(samples[at]));
    peaks[column] = peak;
  }
  return peaks;
}

/** Draw peaks; `played` is a share of the length, `gaps` are pairs of shares. */
export function draw(canvas, peaks, played, gaps) {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const scale = window.devicePixelRatio || 1;
  const width = canvas.clientWidth, height = canvas.clientHeight;
  canvas.width = width * scale;
  canvas.height = height * scale;
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  pen.globalAlpha = 0.25;
  pen.fillStyle = colour("--bad");
  for (const [start, end] of gaps) pen.fillRect(start * width, 0, Math.max(2, (end - start) * width), height);
  pen.globalAlpha = 1;
  const count = peaks ? peaks.length : 1;
  for (let column = 0; column < count; column++) {
    const tall = peaks ? Math.max(1, peaks[column] * (height - 4)) : 2;
    pen.fillStyle = colour(column / count < played ? "--now" : "--wave");
    pen.fillRect((column * width) / count, (height - tall) / 2, Math.max(1, width / count - 1), tall);
  }
  pen.fillStyle = colour("--now");
  pen.fillRect(played * width, 0, 2, height);
}
