// An AudioWorklet between the microphone, the worker and the loudspeaker.

const BLOCK = 256; // samples sent to the worker at once
// At the beginning nothing is heard until there was no gap for a while: the browser makes code fast.
const STEADY_S = 2;
const MOST_S = 6;
const SOFT = 0.01; // not 0: a page that becomes audible costs the browser some 200 ms
const MARGIN_S = 0.1; // what the queue then keeps where it is shortest

class Live extends AudioWorkletProcessor {
  constructor({ processorOptions }) {
    super();
    this.reserve = processorOptions.reserve; // samples to hold before the first is played
    this.silence = STEADY_S * sampleRate; // samples
    this.audible = false;
    this.shortest = Infinity; // length of the queue since the last gap
    this.denoised = true;
    this.share = 1; // of the denoised signal, which follows the switch within some milliseconds
    this.block = new Float32Array(BLOCK);
    this.filled = 0;
    this.queue = []; // pairs of arrays [before, after]
    this.position = 0; // in the first pair
    this.queued = this.fed = this.passed = this.dropped = 0; // samples; passed: played or dropped
    this.playing = false;
    this.squares = [0, 0];
    this.measured = 0;
    this.port.onmessage = ({ data }) => {
      if (data.worker) this.connect(data.worker);
      else this.denoised = data.denoised;
    };
  }

  connect(worker) {
    this.worker = worker;
    worker.onmessage = ({ data }) => {
      this.queue.push(data);
      this.queued += data[0].length;
    };
  }

  process([[input]], [[output]]) {
    if (!this.worker) return true;
    this.send(input ?? new Float32Array(output.length));
    this.playing ||= this.queued >= this.reserve;
    if (this.playing && this.queued < output.length) this.miss();
    while (this.queued > 3 * this.reserve) this.next(); // after a pause of the worker
    if (this.playing) {
      for (let i = 0; i < output.length; i++) output[i] = (this.audible ? 1 : SOFT) * this.next();
      this.shortest = Math.min(this.shortest, this.queued);
      if (!this.audible && this.fed >= this.silence) this.begin();
    }
    this.report(output.length);
    return true;
  }

  miss() {
    if (this.audible) this.dropped++;
    else this.silence = Math.min(this.fed + STEADY_S * sampleRate, MOST_S * sampleRate);
    this.shortest = Infinity;
    this.playing = false; // until the reserve is there again, and that is larger from now on
    this.reserve = Math.min(1.5 * this.reserve, sampleRate / 4);
  }

  begin() {
    this.audible = true;
    for (; this.shortest > MARGIN_S * sampleRate; this.shortest--) this.next();
  }

  send(samples) {
    for (const sample of samples) {
      this.block[this.filled++] = sample;
      if (this.filled < BLOCK) continue;
      this.filled = 0;
      if (this.fed - this.passed - this.queued > sampleRate / 2) {
        this.dropped++; // the worker is too slow
        this.passed += BLOCK;
        continue;
      }
      this.worker.postMessage(this.block, [this.block.buffer]);
      this.block = new Float32Array(BLOCK);
    }
    this.fed += samples.length;
  }

  next() {
    const first = this.queue[0];
    const before = first[0][this.position];
    const after = first[1][this.position];
    if (++this.position === first[0].length) {
      this.queue.shift();
      this.position = 0;
    }
    this.queued--;
    this.passed++;
    this.squares[0] += before * before;
    this.squares[1] += after * after;
    this.share += (this.denoised - this.share) * 0.005;
    return before + this.share * (after - before);
  }

  report(length) {
    this.measured += length;
    if (this.measured < sampleRate / 20) return;
    const levels = this.squares.map((sum) => 10 * Math.log10(sum / this.measured + 1e-12));
    const latency = (this.fed - this.passed) / sampleRate;
    this.port.postMessage({ levels, latency, dropped: this.dropped, playing: this.playing && this.audible });
    this.squares = [0, 0];
    this.measured = 0;
  }
}

registerProcessor("live", Live);
