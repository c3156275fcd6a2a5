// The band above 8 kHz of one channel; modelscope_ext/inference/full_band.py defines the rule, with its step numbers.

import { Fft } from "./fft.js";
import { BandGains, HIGH, LOW } from "./gains.js";

const RATE = 16000; // of the network
const FRAMES = 125; // a second
const SPAN = 128;
const MOST = 128; // frames at once
const EDGES_HZ = [8000, 9500, 11000, 13000, 15500, 18000, 20000, 22000, 24000];
const LOW_BINS = [1, 4, 8, 16, 32, 46, 61];

const hann = (size) => Float64Array.from({ length: size }, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / size));
const netWindow = hann(SPAN);
const netFft = new Fft(SPAN);
const netRe = new Float64Array(SPAN); // the network's input …
const netIm = new Float64Array(SPAN); // … and output, transformed at once

export function append(a, b) {
  const both = new Float32Array(a.length + b.length);
  both.set(a);
  both.set(b, a.length);
  return both;
}

export class HighBand {
  // kept: frequency in Hz → share of it that the resamplers keep
  constructor(network, rate, kept) {
    this.rate = rate;
    this.hop = Math.round(rate / FRAMES);
    this.window = hann(2 * this.hop).map(Math.sqrt);
    this.fft = new Fft(2 ** Math.ceil(Math.log2(2 * this.hop)));
    this.spectra = []; // { re, im } of two frames each
    this.planBands(kept);
    this.audio = new Float32Array(this.hop); // from the beginning of the next frame on
    this.before = this.after = new Float32Array(SPAN); // the network's input and output from `start` on
    this.start = -SPAN;
    this.frame = 0;
    this.tail = new Float32Array(this.hop);
    this.rule = new BandGains(network, MOST);
    this.gains = [0, 1].map(() => new Float64Array(HIGH + 1)); // of two frames
  }

  static covers(rate) {
    return rate >= RATE + 2 * FRAMES;
  }

  frequency(bin) {
    return (bin * this.rate) / this.fft.size;
  }

  // Plan the bands, and for each bin the band `below` and how the gain depends on it (`near`) and on the next one (`far`).
  planBands(kept) {
    const bins = this.fft.size / 2 + 1;
    const edges = EDGES_HZ.map((edge) => Math.min(bins, Math.ceil((edge * this.fft.size) / this.rate)));
    this.bands = edges.slice(1).map((end, i) => ({ start: edges[i], end })).filter(({ start, end }) => start < end);
    for (const band of this.bands) band.centre = this.frequency((band.start + band.end - 1) / 2);
    this.below = new Uint8Array(bins);
    this.near = new Float64Array(bins);
    this.far = new Float64Array(bins);
    for (let k = 0; k < bins; k++) {
      const above = this.bands.findIndex(({ centre }) => centre >= this.frequency(k));
      this.below[k] = above === -1 ? this.bands.length - 1 : Math.max(0, above - 1);
      const [a, b] = [this.bands[above - 1], this.bands[above]]; // the gain is linear between the centres of bands
      const weight = above < 1 ? 0 : (this.frequency(k) - a.centre) / (b.centre - a.centre);
      const share = 1 - kept(this.frequency(k)) ** 2;
      this.near[k] = (1 - weight) * share;
      this.far[k] = weight * share;
    }
  }

  // Take samples of the recording and of the network's input and output; return the finished ones.
  async feed(audio, before, after) {
    const { rate, hop } = this;
    this.audio = append(this.audio, audio);
    this.before = append(this.before, before);
    this.after = append(this.after, after);
    const known = this.start + Math.min(this.before.length, this.after.length);
    const whole = Math.floor(this.audio.length / hop) - 1;
    const count = Math.min(whole, Math.floor(((known + 1) * rate - 1) / (hop * RATE)) + 1 - this.frame);
    if (count <= 0) return new Float32Array(0);
    const out = new Float32Array(count * hop);
    for (let t = 0; t < count; t += MOST) await this.process(t, Math.min(count, t + MOST), out);
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

  // Process some frames, two in one transform: the second one is the imaginary part.
  async process(start, end, out) {
    for (let t = start; t < end; t += 2) this.analyse(t, Math.min(2, end - t), this.spectrum((t - start) / 2));
    const gains = await this.rule.take();
    for (let t = start; t < end; t += 2) {
      const own = gains.subarray((t - start) * HIGH);
      for (let i = 0; i < Math.min(2, end - t); i++) this.gains[i].set(own.subarray(i * HIGH, (i + 1) * HIGH));
      this.synthesise(t, Math.min(2, end - t), this.spectrum((t - start) / 2), out);
    }
  }

  spectrum(i) {
    const { size } = this.fft;
    return (this.spectra[i] ??= { re: new Float64Array(size), im: new Float64Array(size) });
  }

  analyse(t, frames, { re, im }) {
    const { hop, window, audio } = this;
    const start = t * hop;
    for (let i = 0; i < 2 * hop; i++) {
      re[i] = audio[start + i] * window[i];
      im[i] = frames === 2 ? audio[start + hop + i] * window[i] : 0;
    }
    re.fill(0, 2 * hop);
    im.fill(0, 2 * hop);
    this.fft.transform(re, im);
    for (let i = 0; i < frames; i++) this.rule.add(this.above(re, im, i), ...this.lower(t + i));
  }

  synthesise(t, frames, { re, im }, out) {
    this.weigh(re, im);
    this.fft.transform(im, re);
    this.add(re, out, t * this.hop);
    if (frames === 2) this.add(im, out, (t + 1) * this.hop);
  }

  // Multiply the spectra of both frames by their gains.
  weigh(re, im) {
    const { below, near, far, gains: [first, second] } = this;
    const { size } = this.fft;
    for (let k = 0; k <= size / 2; k++) {
      const band = below[k];
      const a = near[k] * first[band] + far[k] * first[band + 1];
      const b = near[k] * second[band] + far[k] * second[band + 1];
      const both = (a + b) / (2 * size);
      const differ = (a - b) / (2 * size);
      const other = (size - k) & (size - 1);
      const x = re[k];
      const y = im[k];
      const u = re[other];
      const v = im[other];
      re[k] = both * x + differ * u;
      im[k] = both * y - differ * v;
      re[other] = both * u + differ * x;
      im[other] = both * v - differ * y;
    }
  }

  add(frame, out, start) {
    const { hop, window, tail } = this;
    for (let i = 0; i < hop; i++) {
      out[start + i] = tail[i] + frame[i] * window[i];
      tail[i] = frame[hop + i] * window[hop + i];
    }
  }

  // The energies of the bands above 8 kHz of the first or the second frame.
  above(re, im, which) {
    const energies = new Float64Array(HIGH);
    this.bands.forEach(({ start, end }, i) => {
      energies[i] = this.fft.energy(re, im, which ? -1 : 1, start, end) / ((end - start) * this.hop);
    });
    return energies;
  }

  // Step 2: the energies of the bands of the network's input and output.
  lower(t) {
    const start = this.centre(t) - this.start - SPAN;
    for (let i = 0; i < SPAN; i++) {
      netRe[i] = this.before[start + i] * netWindow[i];
      netIm[i] = this.after[start + i] * netWindow[i];
    }
    netFft.transform(netRe, netIm);
    return [1, -1].map((sign) => {
      const energies = new Float64Array(LOW);
      for (let i = 0; i < LOW; i++) {
        const [first, end] = [LOW_BINS[i], LOW_BINS[i + 1]];
        energies[i] = netFft.energy(netRe, netIm, sign, first, end) / (SPAN * (end - first));
      }
      return energies;
    });
  }
}
