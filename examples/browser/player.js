// Plays two recordings at once; a switch chooses which one is heard.

const CHUNK_S = 1;

export const header = (rate, channels, bytes) => {
  const view = new DataView(new ArrayBuffer(44));
  const text = (at, letters) => [...letters].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + bytes, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true);
  view.setUint16(22, channels, true);
  view.setUint32(24, rate, true);
  view.setUint32(28, rate * channels * 2, true);
  view.setUint16(32, channels * 2, true);
  view.setUint16(34, 16, true);
  text(36, "data");
  view.setUint32(40, bytes, true);
  return view.buffer;
};

export class Player {
  // recordings: two blobs of interleaved 16-bit samples; changed: called when time or state change
  constructor(recordings, { rate, channels, frames }, changed) {
    Object.assign(this, { recordings, rate, channels, frames, changed });
    this.chosen = 1;
    this.at = 0; // position in frames while nothing plays
    this.context = null;
  }

  get position() {
    if (!this.context) return this.at;
    const heard = this.at + Math.max(0, this.context.currentTime - this.began) * this.rate;
    return Math.min(heard, this.frames);
  }

  choose(which) {
    this.chosen = which;
    this.gains?.forEach((gain, i) => gain.gain.setTargetAtTime(i === which ? 1 : 0, this.context.currentTime, 0.01));
  }

  play() {
    if (this.at >= this.frames) this.at = 0;
    const { rate } = this; // the same as the file's, so that chunks join without a seam
    this.context = new AudioContext(rate >= 8000 && rate <= 96000 ? { sampleRate: rate } : {});
    this.gains = this.recordings.map((_, i) => {
      const gain = new GainNode(this.context, { gain: i === this.chosen ? 1 : 0 });
      gain.connect(this.context.destination);
      return gain;
    });
    this.began = this.context.currentTime + 0.2; // time of the frame `at`
    this.scheduled = this.at;
    this.timer = setInterval(() => this.tick(), 100);
    this.tick();
  }

  pause() {
    this.at = Math.round(this.position);
    clearInterval(this.timer);
    this.context?.close();
    this.context = null;
    this.changed();
  }

  seek(frame) {
    const playing = this.context;
    if (playing) this.pause();
    this.at = frame;
    if (playing) this.play();
    this.changed();
  }

  tick() {
    if (this.position >= this.frames) return this.pause();
    if (!this.fetching && this.scheduled < this.frames && this.scheduled - this.position < 2 * CHUNK_S * this.rate) {
      this.fetching = this.schedule(this.context).finally(() => (this.fetching = null));
    }
    this.changed();
  }

  async schedule(context) {
    const [start, size] = [this.scheduled, Math.min(CHUNK_S * this.rate, this.frames - this.scheduled)];
    const frame = 2 * this.channels;
    const chunks = this.recordings.map((blob) => blob.slice(start * frame, (start + size) * frame).arrayBuffer());
    const buffers = (await Promise.all(chunks)).map((chunk) => this.buffer(new Int16Array(chunk)));
    if (context !== this.context) return;
    const when = this.began + (start - this.at) / this.rate;
    const late = Math.max(0, context.currentTime - when);
    buffers.forEach((buffer, i) => {
      const source = new AudioBufferSourceNode(context, { buffer });
      source.connect(this.gains[i]);
      source.start(when + late, late);
    });
    this.scheduled = start + size;
  }

  buffer(samples) {
    const length = samples.length / this.channels;
    const buffer = new AudioBuffer({ length, numberOfChannels: this.channels, sampleRate: this.rate });
    for (let c = 0; c < this.channels; c++) {
      const channel = buffer.getChannelData(c);
      for (let i = 0; i < length; i++) channel[i] = samples[i * this.channels + c] / 32768;
    }
    return buffer;
  }
}
