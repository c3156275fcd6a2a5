// The band above 8 kHz of one channel; modelscope_ext/inference/full_band.py defines the rule, with its step numbers.

import { Fft } from "./fft.js";
import { BandGains, HIGH, LOW } from "./gains.js";

const RATE = 16000; // of the network
const FRAMES = 125; // a second
const SPAN = 128;
const EDGES_HZ = [8000, 9500, 11000, 13000, 15500, 18000, 20000, 22000, 24000];
const LOW_BINS = [1, 4, 8, 16, 32, 46, 61];

const hann = (size) => Float64Array.from({ length: size }, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / size));
const netWindow = hann(SPAN);
const netFft = new Fft(SPAN);

export function append(a, b) {
  const both = new Float32Array(a.length + b.length);
  both.set(a);
  both.set(b, a.length);
  return both;
}

export class HighBand {
  // kept: frequency in Hz → share of it that the resamplers keep
  constructor(rate, kept) {
    this.rate = rate;
    this.hop = Math.round(rate / FRAMES);
    this.window = hann(2 * this.hop).map(Math.sqrt);
    this.fft = new Fft(2 ** Math.ceil(Math.log2(2 * this.hop)));
    this.share = Float64Array.from({ length: this.fft.size / 2 + 1 }, (_, k) => 1 - kept(this.frequency(k)) ** 2);
    this.planBands();
    this.audio = new Float32Array(this.hop); // from the beginning of the next frame on
    this.before = this.after = new Float32Array(SPAN); // the network's input and output from `start` on
    this.start = -SPAN;
    this.frame = 0;
    this.tail = new Float32Array(this.hop);
    this.rule = new BandGains();
  }

  static covers(rate) {
    return rate >= RATE + 2 * FRAMES;
  }

  frequency(bin) {
    return (bin * this.rate) / this.fft.size;
  }

  planBands() {
    const edges = EDGES_HZ.map((edge) => Math.min(this.share.length, Math.ceil((edge * this.fft.size) / this.rate)));
    this.bands = edges.slice(1).map((end, i) => ({ start: edges[i], end })).filter(({ start, end }) => start < end);
    for (const band of this.bands) band.centre = this.frequency((band.start + band.end - 1) / 2);
    // A bin's gain is linear between the centres of bands: that of `below` plus `weight` times the step to the next one.
    this.below = new Uint8Array(this.share.length);
    this.weight = new Float64Array(this.share.length);
    for (let k = 0; k < this.share.length; k++) {
      const above = this.bands.findIndex(({ centre }) => centre >= this.frequency(k));
      this.below[k] = above === -1 ? this.bands.length - 1 : Math.max(0, above - 1);
      if (above < 1) continue;
      const [a, b] = [this.bands[above - 1], this.bands[above]];
      this.weight[k] = (this.frequency(k) - a.centre) / (b.centre - a.centre);
    }
  }

  // Take samples of the recording and of the network's input and output; return the finished ones.
  feed(audio, before, after) {
    const { rate, hop } = this;
    this.audio = append(this.audio, audio);
    this.before = append(this.before, before);
    this.after = append(this.after, after);
    const known = this.start + Math.min(this.before.length, this.after.length);
    const whole = Math.floor(this.audio.length / hop) - 1;
    const count = Math.min(whole, Math.floor(((known + 1) * rate - 1) / (hop * RATE)) + 1 - this.frame);
    if (count <= 0) return new Float32Array(0);
    const out = new Float32Array(count * hop);
    for (let t = 0; t < count; t++) this.process(t, out);
    const drop = this.frame === 0 ? hop : 0; // the half frame before the first sample
    this.frame += count;
    this.audio = this.audio.slice(count * hop);
    const done = Math.max(0, this.centre(0) - SPAN - this.start);
    this.before = this.before.slice(done);
    this.after = this.after.slice(done);
    this.start += done;
    return out.slice(drop);
  }

  flush() {
    this.after = append(this.after, new Float32Array(Math.max(0, this.before.length - this.after.length)));
    this.after = this.after.slice(0, this.before.length);
    const quiet = new Float32Array(4 * SPAN);
    return this.feed(new Float32Array(3 * this.hop), quiet, quiet);
  }

  centre(t) {
    return Math.floor(((this.frame + t) * this.hop * RATE) / this.rate);
  }

  process(t, out) {
    const { hop, fft, window, below, weight, share } = this;
    const re = new Float64Array(fft.size);
    const im = new Float64Array(fft.size);
    for (let i = 0; i < 2 * hop; i++) re[i] = this.audio[t * hop + i] * window[i];
    fft.transform(re, im);
    const gains = this.rule.update(this.above(re, im), ...this.lower(t));
    for (let k = 0; k <= fft.size / 2; k++) {
      const low = gains[below[k]];
      const gain = share[k] * (weight[k] ? low + weight[k] * (gains[below[k] + 1] - low) : low);
      re[k] *= gain;
      im[k] *= -gain; // the conjugate: its forward transform is the inverse
      if (k > 0 && k < fft.size / 2) {
        re[fft.size - k] = re[k];
        im[fft.size - k] = -im[k];
      }
    }
    fft.transform(re, im);
    for (let i = 0; i < hop; i++) {
      out[t * hop + i] = this.tail[i] + (re[i] / fft.size) * window[i];
      this.tail[i] = (re[hop + i] / fft.size) * window[hop + i];
    }
  }

  // The energies of the bands above 8 kHz.
  above(re, im) {
    const energies = new Float64Array(HIGH);
    this.bands.forEach(({ start, end }, i) => {
      for (let k = start; k < end; k++) energies[i] += (re[k] ** 2 + im[k] ** 2) / ((end - start) * this.hop);
    });
    return energies;
  }

  // Step 2: the energies of the bands of the network's input and output.
  lower(t) {
    const start = this.centre(t) - this.start - SPAN;
    const re = new Float64Array(SPAN); // of the network's input …
    const im = new Float64Array(SPAN); // … and output, transformed at once
    for (let i = 0; i < SPAN; i++) {
      re[i] = this.before[start + i] * netWindow[i];
      im[i] = this.after[start + i] * netWindow[i];
    }
    netFft.transform(re, im);
    const [put, got] = [new Float64Array(LOW), new Float64Array(LOW)];
    for (let i = 0; i < LOW; i++) {
      const scale = 4 * SPAN * (LOW_BINS[i + 1] - LOW_BINS[i]);
      for (let k = LOW_BINS[i]; k < LOW_BINS[i + 1]; k++) {
        const other = SPAN - k;
        put[i] += ((re[k] + re[other]) ** 2 + (im[k] - im[other]) ** 2) / scale;
        got[i] += ((im[k] + im[other]) ** 2 + (re[other] - re[k]) ** 2) / scale;
      }
    }
    return [put, got];
  }
}
