// Runs beside the page: gather the samples of a microphone to blocks of 16-bit integers.

const BLOCK = 1600; // samples: a tenth of a second

registerProcessor("capture", class extends AudioWorkletProcessor {
  #block = new Int16Array(BLOCK);
  #count = 0;

  process([[channel]]) {
    for (const sample of channel ?? []) {
      this.#block[this.#count++] = Math.max(-1, Math.min(1, sample)) * 32767;
      if (this.#count < BLOCK) continue;
      this.port.postMessage(this.#block.buffer, [this.#block.buffer]);
      this.#block = new Int16Array(BLOCK);
      this.#count = 0;
    }
    return true;
  }
});
