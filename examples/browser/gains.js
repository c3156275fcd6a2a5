// The gains of one channel's bands above 8 kHz; modelscope_ext/inference/band_gains.py defines them, with its step numbers.

import bytes from "./high_band.bin"; // float16, by build.py

export const HIGH = 8;
export const LOW = 6;
const TINY = 1e-10;
const DECAY = (0.6 * Math.LN10) / 125;
const FEATURES = 17;

const clip = (x) => Math.min(12, Math.max(-12, x));
const logistic = (x) => 1 / (1 + Math.exp(-x));
const log = (energy) => Math.log(energy + TINY);
const mean = (values) => values.reduce((a, b) => a + b) / values.length;

// Step 5: what a gain is a power of.
function kept(before, after) {
  const [put, got] = [before, after].map((energies) => energies[LOW - 2] + energies[LOW - 1] + TINY);
  return Math.sqrt(Math.min(1, got / put)) * Math.exp(-0.02);
}

function half(h) {
  const [exponent, fraction] = [(h >> 10) & 31, (h & 1023) / 1024];
  return (h >> 15 ? -1 : 1) * (exponent ? 2 ** (exponent - 15) * (1 + fraction) : 2 ** -14 * fraction);
}

const halves = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
const weights = Float64Array.from({ length: bytes.byteLength / 2 }, (_, i) => half(halves.getUint16(2 * i, true)));
const DENSE = 32;
const HIDDEN = 48;
let used = 0;

// A function that multiplies by a matrix (inputs, outputs), whose first weights come next, and adds a bias.
function layer(inputs, outputs) {
  const [start, bias] = [used, used + inputs * outputs];
  used = bias + outputs;
  return (input, out) => {
    for (let k = 0; k < outputs; k++) out[k] = weights[bias + k];
    for (let i = 0; i < inputs; i += 4) { // the inputs end with zeros if they are no multiple of four
      const [a, b, c, d] = [input[i], input[i + 1], input[i + 2], input[i + 3]];
      const row = start + i * outputs;
      for (let k = row, o = 0; o < outputs; k++, o++) {
        out[o] += a * weights[k] + b * weights[k + outputs] + c * weights[k + 2 * outputs] + d * weights[k + 3 * outputs];
      }
    }
  };
}
const dense = layer(FEATURES, DENSE);
const gru = layer(DENSE, 3 * HIDDEN);
const recurrent = layer(HIDDEN, 3 * HIDDEN);
const toExponent = layer(HIDDEN, 1);

export class BandGains {
  constructor() {
    this.frame = 0;
    this.hidden = Array.from({ length: HIGH }, () => new Float64Array(HIDDEN));
    const sizes = { input: FEATURES + 3, common: DENSE, given: 3 * HIDDEN, own: 3 * HIDDEN, exponent: 1 };
    for (const [name, size] of Object.entries(sizes)) this[name] = new Float64Array(size);
  }

  // Return the gains for the energies of the next frame: above 8 kHz, of the network's input and of its output.
  update(high, before, after) {
    const share = kept(before, after);
    return this.features(high, before, after).map((features, band) => share ** this.power(features, this.hidden[band]));
  }

  power(features, hidden) {
    const { input, common, given, own, exponent } = this;
    input.set(features);
    dense(input, common);
    for (let i = 0; i < DENSE; i++) common[i] = Math.max(0, common[i]);
    gru(common, given);
    recurrent(hidden, own);
    for (let i = 0; i < HIDDEN; i++) {
      const reset = logistic(given[i] + own[i]);
      const update = logistic(given[HIDDEN + i] + own[HIDDEN + i]);
      const fresh = 2 * logistic(2 * (given[2 * HIDDEN + i] + reset * own[2 * HIDDEN + i])) - 1; // tanh
      hidden[i] = fresh + update * (hidden[i] - fresh);
    }
    toExponent(hidden, exponent);
    return Math.exp(Math.min(5, exponent[0]));
  }

  // Steps 1 to 3: the features of each band.
  features(high, before, after) {
    const logs = [...high, ...before].map(log);
    const loud = log(mean(before));
    if (this.frame === 0) [this.floor, this.level] = [logs, loud];
    const share = 1 / (1 + this.frame++);
    this.floor = this.floor.map((floor, i) => {
      const step = logs[i] - floor;
      return floor + Math.min(Math.max(0.005, share) * step, Math.max(0.1, share) * step);
    });
    this.level = Math.max(loud, this.level - DECAY);
    const over = logs.map((x, i) => x - this.floor[i]);
    const shares = Array.from(after, (energy, i) => Math.max(-7, log(energy) - log(before[i])));
    const common = [...over.slice(HIGH), ...shares, loud - this.level];
    return Array.from({ length: HIGH }, (_, band) => {
      const own = [over[band], over[Math.max(0, band - 1)], over[Math.min(HIGH - 1, band + 1)]];
      return [...own, ...common, (6 * band) / (HIGH - 1) - 3].map((x) => 0.3 * clip(x));
    });
  }
}
