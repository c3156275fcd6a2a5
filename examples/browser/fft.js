// The Fourier transform of a power of two of complex samples, in place.

export class Fft {
  constructor(size) {
    const bits = Math.log2(size);
    const turn = (i) => (2 * Math.PI * i) / size;
    this.size = size;
    this.cosine = Float64Array.from({ length: size / 2 }, (_, i) => Math.cos(turn(i)));
    this.sine = Float64Array.from({ length: size / 2 }, (_, i) => -Math.sin(turn(i)));
    this.order = Uint32Array.from({ length: size }, (_, i) => {
      let reversed = 0;
      for (let bit = 0; bit < bits; bit++) reversed |= ((i >> bit) & 1) << (bits - 1 - bit);
      return reversed;
    });
  }

  transform(re, im) {
    const { size, cosine, sine, order } = this;
    for (let i = 0; i < size; i++) {
      const j = order[i];
      if (j <= i) continue;
      const [real, imaginary] = [re[i], im[i]];
      re[i] = re[j];
      im[i] = im[j];
      re[j] = real;
      im[j] = imaginary;
    }
    for (let length = 2; length <= size; length *= 2) {
      const half = length / 2;
      const step = size / length;
      for (let start = 0; start < size; start += length) {
        for (let k = 0; k < half; k++) {
          const a = start + k;
          const b = a + half;
          const x = re[b] * cosine[k * step] - im[b] * sine[k * step];
          const y = re[b] * sine[k * step] + im[b] * cosine[k * step];
          re[b] = re[a] - x;
          im[b] = im[a] - y;
          re[a] += x;
          im[a] += y;
        }
      }
    }
  }
}
