// The gains of one channel's bands above 8 kHz; modelscope_ext/inference/band_gains.py defines them, with its step numbers.
// Matrices of all bands are (values, bands), rows one after the other.

import bytes from "./high_band.bin"; // float16, by build.py

export const HIGH = 8;
export const LOW = 6;
const TINY = 1e-10;
const DECAY = (0.6 * Math.LN10) / 125;
const FEATURES = 17;
const DENSE = 32;
const HIDDEN = 48;

const scaled = (x) => 0.3 * Math.min(12, Math.max(-12, x));
const logistic = (x) => 1 / (1 + Math.exp(-x));
const log = (energy) => Math.log(energy + TINY);
const matrix = (rows) => new Float64Array(rows * HIGH);

// Step 5: what a gain is a power of.
function kept(before, after) {
  const put = before[LOW - 2] + before[LOW - 1] + TINY;
  const got = after[LOW - 2] + after[LOW - 1] + TINY;
  return Math.sqrt(Math.min(1, got / put)) * Math.exp(-0.02);
}

function half(h) {
  const [exponent, fraction] = [(h >> 10) & 31, (h & 1023) / 1024];
  return (h >> 15 ? -1 : 1) * (exponent ? 2 ** (exponent - 15) * (1 + fraction) : 2 ** -14 * fraction);
}

const halves = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
let used = 0;
const read = (count) => Float64Array.from({ length: count }, () => half(halves.getUint16(2 * used++, true)));

// A function that multiplies an even number of outputs of each band by the next weights (inputs, outputs), with a bias.
function layer(inputs, outputs) {
  const [weights, bias] = [read(inputs * outputs), read(outputs)];
  const rows = weights.map((_, i) => weights[(i % inputs) * outputs + Math.floor(i / inputs)]); // (outputs, inputs)
  return (input, out) => {
    for (let o = 0; o < outputs; o += 2) {
      for (let band = 0; band < HIGH; band += 4) multiply(rows, bias, o, input, band, out);
    }
  };
}

// Write two outputs of four bands: so many sums stay in registers.
function multiply(rows, bias, o, input, band, out) {
  const inputs = rows.length / bias.length;
  let a = bias[o];
  let b = a;
  let c = a;
  let d = a;
  let e = bias[o + 1];
  let f = e;
  let g = e;
  let h = e;
  for (let i = 0, row = o * inputs, k = band; i < inputs; i++, row++, k += HIGH) {
    const first = rows[row];
    const second = rows[row + inputs];
    a += first * input[k];
    b += first * input[k + 1];
    c += first * input[k + 2];
    d += first * input[k + 3];
    e += second * input[k];
    f += second * input[k + 1];
    g += second * input[k + 2];
    h += second * input[k + 3];
  }
  const k = o * HIGH + band;
  out[k] = a;
  out[k + 1] = b;
  out[k + 2] = c;
  out[k + 3] = d;
  out[k + HIGH] = e;
  out[k + HIGH + 1] = f;
  out[k + HIGH + 2] = g;
  out[k + HIGH + 3] = h;
}

const dense = layer(FEATURES, DENSE);
const gru = layer(DENSE, 3 * HIDDEN);
const recurrent = layer(HIDDEN, 3 * HIDDEN);
const [toExponent, exponentBias] = [read(HIDDEN), read(1)];

export class BandGains {
  constructor() {
    this.frame = 0;
    this.floor = new Float64Array(HIGH + LOW);
    this.over = new Float64Array(HIGH + LOW);
    this.level = 0;
    this.input = matrix(FEATURES);
    this.common = matrix(DENSE);
    this.given = matrix(3 * HIDDEN);
    this.own = matrix(3 * HIDDEN);
    this.hidden = matrix(HIDDEN);
  }

  // Write the gains for the energies of the next frame: above 8 kHz, of the network's input and of its output.
  update(high, before, after, gains) {
    const { common, hidden } = this;
    this.features(high, before, after);
    dense(this.input, common);
    for (let i = 0; i < common.length; i++) common[i] = Math.max(0, common[i]);
    this.step();
    const share = kept(before, after);
    for (let band = 0; band < HIGH; band++) {
      let exponent = exponentBias[0];
      for (let i = 0; i < HIDDEN; i++) exponent += toExponent[i] * hidden[i * HIGH + band];
      gains[band] = share ** Math.exp(Math.min(5, exponent));
    }
  }

  // Step 4: the GRU.
  step() {
    const { common, given, own, hidden } = this;
    gru(common, given);
    recurrent(hidden, own);
    const size = hidden.length;
    for (let i = 0; i < size; i++) {
      const update = logistic(given[i] + own[i]);
      const reset = logistic(given[size + i] + own[size + i]);
      const fresh = 2 * logistic(2 * (given[2 * size + i] + reset * own[2 * size + i])) - 1; // tanh
      hidden[i] = fresh + update * (hidden[i] - fresh);
    }
  }

  // Steps 1 to 3: the features of each band.
  features(high, before, after) {
    const { over, input } = this;
    const loud = this.track(high, before);
    for (let band = 0; band < HIGH; band++) {
      input[band] = scaled(over[band]);
      input[HIGH + band] = scaled(over[Math.max(0, band - 1)]);
      input[2 * HIGH + band] = scaled(over[Math.min(HIGH - 1, band + 1)]);
      input[(FEATURES - 1) * HIGH + band] = scaled((6 * band) / (HIGH - 1) - 3);
    }
    for (let i = 0; i < LOW; i++) {
      this.forAll(3 + i, over[HIGH + i]);
      this.forAll(3 + LOW + i, Math.max(-7, log(after[i]) - log(before[i])));
    }
    this.forAll(3 + 2 * LOW, loud - this.level);
  }

  forAll(row, value) {
    this.input.fill(scaled(value), row * HIGH, (row + 1) * HIGH);
  }

  // Steps 1 and 2; return the loudness below 8 kHz.
  track(high, before) {
    const { floor, over } = this;
    let sum = 0;
    for (let i = 0; i < LOW; i++) sum += before[i];
    const loud = log(sum / LOW);
    const share = 1 / (1 + this.frame);
    for (let i = 0; i < HIGH + LOW; i++) {
      const level = log(i < HIGH ? high[i] : before[i - HIGH]);
      if (this.frame === 0) floor[i] = level;
      const step = level - floor[i];
      floor[i] += Math.min(Math.max(0.005, share) * step, Math.max(0.1, share) * step);
      over[i] = level - floor[i];
    }
    this.level = this.frame === 0 ? loud : Math.max(loud, this.level - DECAY);
    this.frame++;
    return loud;
  }
}
