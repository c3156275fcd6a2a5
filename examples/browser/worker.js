// Denoises files, one after the other, or one microphone. The page ends it to cancel.

import { ADTS, AudioSampleSink, BlobSource, FLAC, Input, MATROSKA, MP3, MP4, OGG, QTFF, WAVE, WEBM } from "mediabunny";
import { checked } from "./headers.js";
import { Spectrograms } from "./spectrogram.js";
import { cut, DenoiseStream, joined, Network, silence } from "./stream.js";

const FORMATS = [MP4, QTFF, MATROSKA, WEBM, MP3, WAVE, OGG, ADTS, FLAC];
const MAX_HOURS = 3;
const RATES = [3000, 768000]; // that browsers play, in Hz
const MAX_BYTES = 2 ** 32 - 44; // of a wav file
const SLACK_S = 0.1; // by which a whole file may be shorter than it says: encoders add to both ends
const EXACT = /^(flac|pcm)/;
const EXACT_S = 0.002; // containers round to 0.001

const WARMUP_S = 15; // of audio, unless there is something to do

let wanted = false;
const loading = load();

async function load() {
  const network = await Network.load(new URL(".", import.meta.url));
  await processed({ parts: warmup() }, network, () => {}); // the browser makes hot code fast
  return network;
}

async function* warmup() {
  for (let seconds = 0; seconds < WARMUP_S; seconds += 3) {
    yield { audio: silence(1, 3 * 48000), rate: 48000 };
    await new Promise((resolve) => setTimeout(resolve)); // for messages
    if (wanted) return;
  }
}

// An error with a message of words.js.
class Problem extends Error {
  constructor(word, details = {}) {
    super(word);
    this.details = details;
  }
}

self.onmessage = async ({ data }) => {
  wanted = true;
  try {
    await (data.port ? denoiseLive(data) : denoiseFile(data));
  } catch (error) {
    const word = error instanceof Problem ? error.message : "failed";
    self.postMessage({ kind: "problem", word, detail: String(error), ...error.details });
  }
};

async function denoiseFile({ file, decoded }) {
  const about = await checked(file).catch(() => ({ file })); // reading it finds what is wrong
  const source = decoded ? wholeSource(decoded) : await fileSource(about);
  source.cut = about.cut;
  if (about.promised !== undefined) source.promised = about.promised;
  if (source.seconds > MAX_HOURS * 3600) throw new Problem("long");
  const done = await processed(source, await loading, (block) => self.postMessage(block));
  self.postMessage(done);
}

// Denoise a source in blocks and send them; return what the page has to know at the end.
async function processed(source, network, send) {
  const began = performance.now();
  const pictures = new Spectrograms();
  const done = { kind: "done", frames: 0 };
  let stream;
  let discard = 0;
  const finish = ({ before, after }) => {
    const skip = Math.min(discard, before[0].length);
    discard -= skip;
    [before, after] = [cut(before, skip), cut(after, skip)];
    pictures.add(before, after);
    done.frames += before[0].length;
    const seconds = done.frames / done.rate;
    if (seconds > MAX_HOURS * 3600 || 2 * done.frames * done.channels > MAX_BYTES) throw new Problem("long");
    send({ kind: "block", before: pcm(before), after: pcm(after), seconds, of: source.seconds });
  };
  for await (let { audio, rate } of blocks(source.parts, 1 + network.about.lead_in_s)) {
    if (!stream) {
      if (rate < RATES[0] || rate > RATES[1]) throw new Problem("rate");
      Object.assign(done, { rate, channels: audio.length });
      stream = new DenoiseStream(network, rate, audio.length);
      const warmup = audio.map((channel) => channel.slice(1, Math.round(network.about.lead_in_s * rate) + 1).reverse());
      discard = warmup[0].length;
      audio = joined([warmup, audio]);
    }
    finish(await stream.feed(audio));
  }
  const { promised, cut: isCut, slack = SLACK_S } = source;
  if (!stream) throw promised > 0 ? new Problem("undecodable", { promised }) : new Problem("empty");
  finish(await stream.flush());
  const missing = promised - done.frames / done.rate;
  Object.assign(done, { promised, cut: isCut, missing: missing > slack ? missing : 0 });
  return { ...done, pictures: pictures.pictures(), busy: performance.now() - began };
}

async function fileSource({ file, kind }) {
  const input = new Input({ source: new BlobSource(file), formats: FORMATS });
  let tracks;
  let track;
  let seconds;
  let promised;
  try {
    tracks = await input.getTracks();
    track = await input.getPrimaryAudioTrack();
    seconds = await track?.computeDuration();
    promised = await track?.getDurationFromMetadata();
    const ofAll = [MATROSKA, WEBM].includes(await input.getFormat()); // a length of the longest track
    if (promised && ofAll) promised -= (await input.computeDuration()) - seconds;
  } catch (error) {
    throw new Problem("undecodable", { of: kind });
  }
  if (track === null) throw new Problem(tracks.length ? "soundless" : "undecodable");
  if (!(await track.canDecode())) throw new Problem("undecodable", { rate: track.sampleRate, seconds, of: kind });
  return { seconds, promised, parts: samplesOf(track), slack: EXACT.test(track.codec) ? EXACT_S : SLACK_S };
}

async function* samplesOf(track) {
  for await (const sample of new AudioSampleSink(track).samples()) {
    const rate = sample.sampleRate;
    const skip = Math.min(sample.numberOfFrames, Math.max(0, Math.round(-sample.timestamp * rate)));
    const audio = Array.from({ length: sample.numberOfChannels }, (_, planeIndex) => {
      const channel = new Float32Array(sample.numberOfFrames);
      sample.copyTo(channel, { planeIndex, format: "f32-planar" });
      return channel.subarray(skip);
    });
    sample.close();
    yield { audio, rate };
  }
}

// What the page decoded by itself.
function wholeSource({ audio, rate, promised }) {
  return { seconds: audio[0].length / rate, promised, parts: [{ audio, rate }] };
}

// Yield { audio, rate } of about that many seconds.
async function* blocks(parts, seconds) {
  let waiting = [];
  let length = 0;
  let rate;
  for await (const part of parts) {
    rate = part.rate;
    const size = Math.ceil(seconds * rate);
    for (let start = 0; start < part.audio[0].length; start += size) {
      waiting.push(cut(part.audio, start, start + size));
      length += waiting.at(-1)[0].length;
      if (length < size) continue;
      yield { audio: joined(waiting), rate };
      waiting = [];
      length = 0;
    }
  }
  if (length) yield { audio: joined(waiting), rate };
}

// Interleaved 16-bit samples. The browser keeps large blobs on disk.
function pcm(audio) {
  const samples = new Int16Array(audio.length * audio[0].length);
  for (let c = 0; c < audio.length; c++) {
    const channel = audio[c];
    let check = 0;
    for (let i = 0, k = c; i < channel.length; i++, k += audio.length) {
      const x = 32768 * channel[i];
      samples[k] = Math.floor(x > 32767 ? 32767 : x < -32768 ? -32768 : x + 0.5);
      check += x - x;
    }
    if (check !== 0) throw new Problem("infinite"); // not a number
  }
  return new Blob([samples]);
}

async function denoiseLive({ port, rate }) {
  const network = await loading;
  const first = new DenoiseStream(network, rate, 1);
  for (let fed = 0; fed < 2 * rate; fed += 256) await first.feed(silence(1, 256)); // as `load` does, for single steps
  const stream = new DenoiseStream(network, rate, 1);
  let busy = 0;
  let frames = 0;
  let turn = Promise.resolve();
  const step = async (block) => {
    const start = performance.now();
    const { before, after } = await stream.feed([block]);
    busy += performance.now() - start;
    frames += block.length;
    if (before[0].length) port.postMessage([before[0], after[0]], [before[0].buffer, after[0].buffer]);
    if (frames >= rate / 2) {
      self.postMessage({ kind: "load", load: busy / 1000 / (frames / rate) });
      busy = frames = 0;
    }
  };
  port.onmessage = ({ data }) => (turn = turn.then(() => step(data)));
  self.postMessage({ kind: "ready", hop: network.about.hop / network.about.sample_rate });
}
