// The package's DenoiseStream in JavaScript: chunks of any size, any rate, output aligned with the input.
// Audio is an array of channels, each a Float32Array.

import * as ort from "onnxruntime-web/wasm";
import { HighBand } from "./band.js";
import { FEATURES, HIDDEN, HIGH } from "./gains.js";

ort.env.wasm.numThreads = 1;

const MOST = 128; // hops at once

export const silence = (channels, length) => Array.from({ length: channels }, () => new Float32Array(length));

export function joined(parts) {
  if (parts.length === 1) return parts[0];
  return parts[0].map((_, channel) => {
    const all = new Float32Array(parts.reduce((sum, part) => sum + part[channel].length, 0));
    let start = 0;
    for (const part of parts) {
      all.set(part[channel], start);
      start += part[channel].length;
    }
    return all;
  });
}

export const cut = (audio, start, end) => audio.map((channel) => channel.subarray(start, end));

// The network, audio (channels, n hops) and its state, by onnxruntime-web.
export class Network {
  static async load(folder) {
    const names = ["model.json", "model.deflate", "high_band.onnx"];
    const [about, packed, band] = await Promise.all(names.map((name) => fetch(new URL(name, folder))));
    const model = new Response(packed.body.pipeThrough(new DecompressionStream("deflate")));
    ort.env.wasm.wasmPaths = { wasm: new URL("ort-wasm-simd-threaded.wasm", folder).href };
    const open = (bytes) => ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
    const network = new Network();
    network.about = await about.json();
    network.session = await open(await model.arrayBuffer());
    network.band = await open(await band.arrayBuffer());
    return network;
  }

  start(channels) {
    const states = {};
    for (const [name, shape] of Object.entries(this.about.states)) {
      const dims = [channels, ...shape];
      states[name] = new ort.Tensor("float32", new Float32Array(dims.reduce((a, b) => a * b)), dims);
    }
    return { states, waiting: silence(channels, 0) };
  }

  // Return the gains (frames, 8) of the bands above 8 kHz of one channel, and the network's state after them.
  async gains({ features, kept, hidden }) {
    const tensor = (data, ...shape) => new ort.Tensor("float32", data, shape);
    const found = await this.band.run({
      features: tensor(features, 1, kept.length, HIGH, FEATURES),
      kept: tensor(kept, 1, kept.length, 1),
      hidden: tensor(hidden, 1, HIGH, HIDDEN),
    });
    return [found.gains.data, found.new_hidden.data];
  }

  async feed(audio, state) {
    const { hop } = this.about;
    const waiting = joined([state.waiting, audio]);
    const whole = Math.floor(waiting[0].length / hop) * hop;
    const out = silence(audio.length, whole);
    for (let start = 0, end; start < whole; start = end) {
      end = Math.min(whole, start + MOST * hop);
      const input = new Float32Array(audio.length * (end - start));
      waiting.forEach((channel, c) => input.set(channel.subarray(start, end), c * (end - start)));
      const tensor = new ort.Tensor("float32", input, [audio.length, end - start]);
      const found = await this.session.run({ ...state.states, audio: tensor });
      for (const name of Object.keys(state.states)) state.states[name] = found[`new_${name}`];
      const enhanced = found.enhanced.data;
      out.forEach((channel, c) => channel.set(enhanced.subarray(c * (end - start), (c + 1) * (end - start)), start));
    }
    state.waiting = waiting.map((channel) => channel.slice(whole));
    return out;
  }
}

// The package's StreamResampler: a Kaiser window over a sinc, 24 samples of the lower rate to each side.
class Resampler {
  constructor(source, target, channels, halfLength = 24) {
    const common = greatestDivisor(source, target);
    this.up = target / common;
    this.down = source / common;
    const factor = Math.max(this.up, this.down);
    this.half = Math.ceil((halfLength * factor) / this.down) * this.down;
    this.waits = this.half / (source * this.up); // seconds
    this.phases = phasesOf(this.half, factor, this.up);
    this.taps = this.phases[0].length;
    this.buffer = silence(channels, this.taps); // before the first sample
    this.start = -this.taps; // of the buffer
    this.fed = this.done = 0; // samples taken and returned
  }

  feed(audio) {
    const { up, down, half, taps, done } = this;
    this.buffer = joined([this.buffer, audio]);
    this.fed += audio[0].length;
    const ready = Math.max(done, Math.floor((this.fed * up - half - 1) / down) + 1);
    const out = this.buffer.map((samples) => this.resampled(samples, ready - done));
    this.done = ready;
    const needed = Math.floor((ready * down + half) / up) - taps + 1;
    this.buffer = this.buffer.map((channel) => channel.slice(needed - this.start));
    this.start = needed;
    return out;
  }

  // Return the next samples of one channel: four of each phase at once, as long as there are so many.
  resampled(samples, count) {
    const { up, down, half, taps, done, phases } = this;
    const out = new Float32Array(count);
    const at = done * down + half;
    let first = Math.floor(at / up) - taps + 1 - this.start;
    let phase = at % up;
    let m = 0;
    for (const together = 4 * up; m + together <= count; m += together, first += 4 * down) {
      let start = first;
      for (let each = m; each < m + up; each++) {
        weighFour(samples, start, down, phases[phase], out, each, up);
        for (phase += down; phase >= up; phase -= up) start++;
      }
    }
    for (; m < count; m++) {
      out[m] = weighted(samples, first, phases[phase]);
      for (phase += down; phase >= up; phase -= up) first++;
    }
    return out;
  }

  flush() {
    const { up, down, half, fed, done } = this;
    const missing = Math.ceil((fed * up) / down) - done;
    return cut(this.feed(silence(this.buffer.length, Math.floor(half / up) + down + 1)), 0, missing);
  }
}

// Write every `gap`th of four sums of samples times taps; the samples begin `step` later for each.
function weighFour(samples, first, step, taps, out, at, gap) {
  const [second, third, last] = [first + step, first + 2 * step, first + 3 * step];
  let a = 0;
  let b = 0;
  let c = 0;
  let d = 0;
  for (let i = 0; i < taps.length; i++) {
    const tap = taps[i];
    a += tap * samples[first + i];
    b += tap * samples[second + i];
    c += tap * samples[third + i];
    d += tap * samples[last + i];
  }
  out[at] = a;
  out[at + gap] = b;
  out[at + 2 * gap] = c;
  out[at + 3 * gap] = d;
}

// Return the sum of samples times taps, a multiple of four.
function weighted(samples, first, taps) {
  let a = 0;
  let b = 0;
  let c = 0;
  let d = 0;
  for (let i = 0; i < taps.length; i += 4) {
    a += taps[i] * samples[first + i];
    b += taps[i + 1] * samples[first + i + 1];
    c += taps[i + 2] * samples[first + i + 2];
    d += taps[i + 3] * samples[first + i + 3];
  }
  return a + b + c + d;
}

function greatestDivisor(a, b) {
  return b ? greatestDivisor(b, a % b) : a;
}

function filterOf(half, factor) {
  const filter = Float64Array.from({ length: 2 * half + 1 }, (_, i) => {
    const x = Math.PI * 0.92 * ((i - half) / factor);
    return (x ? Math.sin(x) / x : 1) * bessel(7 * Math.sqrt(1 - ((i - half) / half) ** 2));
  });
  const sum = filter.reduce((a, b) => a + b);
  return filter.map((tap) => tap / sum);
}

// Return a function: frequency in Hz → share of it that a resampler keeps between a rate and a higher one.
function response(lowerRate) {
  const half = 72;
  const taps = filterOf(half, 3);
  const turn = (2 * Math.PI) / (3 * lowerRate);
  const kept = (frequency) => taps.reduce((sum, tap, i) => sum + tap * Math.cos(turn * frequency * (i - half)), 0);
  return (frequency) => (frequency < 0.52 * lowerRate ? kept(frequency) : 0);
}

// Return the taps of each phase, the oldest sample's first, behind zeros that make their number a multiple of four.
function phasesOf(half, factor, up) {
  const filter = filterOf(half, factor);
  const taps = 4 * Math.ceil((2 * half + 1) / up / 4);
  return Array.from({ length: up }, (_, phase) =>
    Float64Array.from({ length: taps }, (_, i) => up * (filter[phase + up * (taps - 1 - i)] ?? 0)),
  );
}

// The modified Bessel function of order 0.
function bessel(x) {
  let term = 1;
  let sum = 1;
  for (let k = 1; term > 1e-17 * sum; k++) sum += term *= (x / (2 * k)) ** 2;
  return sum;
}

export class DenoiseStream {
  constructor(network, rate, channels) {
    const { sample_rate, delay, latency, attenuation_limit_db } = network.about;
    this.network = network;
    this.state = network.start(channels);
    this.down = rate === sample_rate ? null : new Resampler(rate, sample_rate, channels);
    this.up = rate === sample_rate ? null : new Resampler(sample_rate, rate, channels);
    this.latency = latency / sample_rate + (this.up ? this.up.waits + this.down.waits : 0); // seconds
    this.lag = delay;
    this.noisy = this.low = this.above = silence(channels, 0);
    if (HighBand.covers(rate)) this.high = this.noisy.map(() => new HighBand(network, rate, response(sample_rate)));
    this.dryGain = 10 ** (-(attenuation_limit_db ?? Infinity) / 20);
  }

  // Return the finished samples as { before, after }.
  async feed(audio) {
    this.noisy = joined([this.noisy, audio]);
    const resampled = this.down ? this.down.feed(audio) : audio;
    const out = await this.enhanced(resampled);
    const low = this.up ? this.up.feed(out) : out;
    if (!this.high) return this.emit(low);
    return this.emit(this.sum(low, await this.fromBands((band, c) => band.feed(audio[c], resampled[c], out[c]))));
  }

  async flush() {
    const channels = this.noisy.length;
    const rest = this.down ? this.down.flush() : silence(channels, 0);
    const last = [await this.enhanced(rest), await this.enhanced(silence(channels, this.network.about.latency))];
    const out = joined(last);
    const low = this.up ? joined([this.up.feed(out), this.up.flush()]) : out;
    if (!this.high) return this.emit(low);
    const above = await this.fromBands((band, c) => band.feed(new Float32Array(0), rest[c], out[c]));
    return this.emit(this.sum(low, joined([above, await this.fromBands((band) => band.flush())])));
  }

  // Return what the band of each channel finishes, one after the other.
  async fromBands(finish) {
    const above = [];
    for (const [c, band] of this.high.entries()) above.push(await finish(band, c));
    return above;
  }

  async enhanced(audio) {
    const out = await this.network.feed(audio, this.state);
    const drop = Math.min(this.lag, out[0].length);
    this.lag -= drop;
    return cut(out, drop);
  }

  // Add the network's output and what is above it, as far as both are known.
  sum(low, above) {
    [this.low, this.above] = [joined([this.low, low]), joined([this.above, above])];
    const ready = Math.min(this.low[0].length, this.above[0].length);
    const both = this.low.map((channel) => channel.slice(0, ready));
    both.forEach((channel, c) => {
      const above = this.above[c];
      for (let i = 0; i < ready; i++) channel[i] += above[i];
    });
    [this.low, this.above] = [this.low, this.above].map((audio) => audio.map((channel) => channel.slice(ready)));
    return both;
  }

  emit(out) {
    const length = Math.min(out[0].length, this.noisy[0].length);
    const before = this.noisy.map((channel) => channel.slice(0, length));
    this.noisy = this.noisy.map((channel) => channel.slice(length));
    const after = out.map((channel) => channel.slice(0, length));
    after.forEach((wet, c) => {
      const dry = before[c];
      for (let i = 0; i < length; i++) wet[i] += this.dryGain * (dry[i] - wet[i]);
    });
    return { before, after };
  }
}
