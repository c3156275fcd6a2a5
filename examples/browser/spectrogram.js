// Spectrograms of two signals at once, of any length: one complex transform takes one as real, one as imaginary part.

import { Fft } from "./fft.js";

const SIZE = 1024;
const COLUMNS = 1024; // at most; then pairs of columns become one
const FLOOR_DB = -110;
const TOP_DB = -30;
const DB_OF_BIT = (10 * Math.log10(2)) / 2 ** 23;

const window_ = Float64Array.from({ length: SIZE }, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / SIZE));
const fft = new Fft(SIZE);

const re = new Float64Array(SIZE);
const im = new Float64Array(SIZE);

function mono(audio) {
  const sum = new Float32Array(audio[0].length);
  for (const channel of audio) {
    for (let i = 0; i < sum.length; i++) sum[i] += channel[i] / audio.length;
  }
  return sum;
}

export class Spectrograms {
  constructor() {
    this.waiting = [new Float32Array(0), new Float32Array(0)];
    this.columns = []; // powers (2 * SIZE / 2), summed over `frames` frames each
    this.frames = 1;
    this.last = null;
  }

  add(before, after) {
    const signals = [before, after].map((audio, i) => {
      const all = new Float32Array(this.waiting[i].length + audio[0].length);
      all.set(this.waiting[i]);
      all.set(mono(audio), this.waiting[i].length);
      return all;
    });
    let start = 0;
    for (; start + SIZE <= signals[0].length; start += SIZE / 2) this.addFrame(signals, start);
    this.waiting = signals.map((signal) => signal.slice(start));
  }

  addFrame([x, y], start) {
    for (let i = 0; i < SIZE; i++) {
      re[i] = x[start + i] * window_[i];
      im[i] = y[start + i] * window_[i];
    }
    fft.transform(re, im);
    if (!this.last || this.last.count === this.frames) {
      if (this.columns.length === COLUMNS) this.merge();
      this.last = { count: 0, powers: new Float32Array(SIZE) };
      this.columns.push(this.last);
    }
    const { powers } = this.last;
    this.last.count++;
    for (let k = 0; k < SIZE / 2; k++) {
      const other = (SIZE - k) & (SIZE - 1);
      const real = re[k] * re[k] + re[other] * re[other] + im[k] * im[k] + im[other] * im[other];
      const cross = 2 * (re[k] * re[other] - im[k] * im[other]);
      powers[k] += (real + cross) / 4;
      powers[SIZE / 2 + k] += (real - cross) / 4;
    }
  }

  merge() {
    this.columns = this.columns.filter((_, i) => i % 2 === 0).map((column, i) => {
      const next = this.columns[2 * i + 1];
      return { count: column.count + next.count, powers: column.powers.map((power, k) => power + next.powers[k]) };
    });
    this.frames *= 2;
  }

  // Return two pictures { width, height, levels }: bytes by row, the highest frequency first.
  pictures() {
    const [width, height] = [this.columns.length, SIZE / 2];
    return [0, height].map((first) => {
      const levels = new Uint8ClampedArray(width * height);
      this.columns.forEach(({ count, powers }, column) => {
        const bits = new Int32Array(powers.buffer, 4 * first, height); // 2^23 log2 of a power, to 0.3 dB
        const least = FLOOR_DB + 10 * Math.log10(count * (SIZE / 4) ** 2) + DB_OF_BIT * (127 * 2 ** 23 - 361007);
        const [step, from] = [(255 * DB_OF_BIT) / (TOP_DB - FLOOR_DB), (255 * least) / (TOP_DB - FLOOR_DB)];
        for (let k = 0; k < height; k++) levels[(height - 1 - k) * width + column] = step * bits[k] - from;
      });
      return { width, height, levels };
    });
  }
}
