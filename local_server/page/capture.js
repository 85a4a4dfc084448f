// Runs beside the page: gather the samples of a microphone to blocks of 16-bit integers. A message asks for the last ones.

const BLOCK = 1600; // samples: a tenth of a second

registerProcessor("capture", class extends AudioWorkletProcessor {
  #block = new Int16Array(BLOCK);
  #count = 0;
  #isOver = false;

  constructor() {
    super();
    this.port.onmessage = () => {
      this.#isOver = true;
      this.#pass();
      this.port.postMessage(null);
    };
  }

  #pass() {
    const samples = this.#block.slice(0, this.#count).buffer;
    if (samples.byteLength) this.port.postMessage(samples, [samples]);
    this.#count = 0;
  }

  process([[channel]]) {
    for (const sample of channel ?? []) {
      this.#block[this.#count++] = Math.max(-1, Math.min(1, sample)) * 32767;
      if (this.#count === BLOCK) this.#pass();
    }
    return !this.#isOver;
  }
});
