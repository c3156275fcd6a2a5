// The gains of one channel's bands above 8 kHz; modelscope_ext/inference/band_gains.py defines them, with its step numbers.

export const HIGH = 8;
export const LOW = 6;
export const FEATURES = 17;
export const HIDDEN = 48;
const TINY = 1e-10;
const DECAY = (0.6 * Math.LN10) / 125;

const scaled = (x) => 0.3 * Math.min(12, Math.max(-12, x));
const log = (energy) => Math.log(energy + TINY);

// Step 5: the logarithm of what a gain is a power of.
function kept(before, after) {
  const put = before[LOW - 2] + before[LOW - 1] + TINY;
  const got = after[LOW - 2] + after[LOW - 1] + TINY;
  return 0.5 * Math.log(Math.min(1, got / put)) - 0.02;
}

export class BandGains {
  // most: frames at once
  constructor(network, most) {
    this.network = network;
    this.frame = 0;
    this.floor = new Float64Array(HIGH + LOW);
    this.over = new Float64Array(HIGH + LOW);
    this.level = 0;
    this.features = new Float32Array(most * HIGH * FEATURES);
    this.kept = new Float32Array(most);
    this.count = 0; // frames that are waiting
    this.hidden = new Float32Array(HIGH * HIDDEN);
  }

  // Take the energies of the next frame: above 8 kHz, of the network's input and of its output.
  add(high, before, after) {
    const { over, features, count } = this;
    const loud = this.track(high, before);
    const common = [];
    for (let i = 0; i < LOW; i++) common.push(over[HIGH + i]);
    for (let i = 0; i < LOW; i++) common.push(Math.max(-7, log(after[i]) - log(before[i])));
    common.push(loud - this.level);
    for (let band = 0, at = count * HIGH * FEATURES; band < HIGH; band++) {
      features[at++] = scaled(over[band]);
      features[at++] = scaled(over[Math.max(0, band - 1)]);
      features[at++] = scaled(over[Math.min(HIGH - 1, band + 1)]);
      for (const value of common) features[at++] = scaled(value);
      features[at++] = scaled((6 * band) / (HIGH - 1) - 3);
    }
    this.kept[count] = kept(before, after);
    this.count++;
  }

  // Return the gains (frames, HIGH) of the frames that are waiting.
  async take() {
    const { network, hidden, count } = this;
    const features = this.features.subarray(0, count * HIGH * FEATURES);
    const [gains, state] = await network.gains({ features, kept: this.kept.subarray(0, count), hidden });
    this.hidden = state;
    this.count = 0;
    return gains;
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
