// The Fourier transform of a power of two of complex samples, in place. transform(im, re) is the inverse times the size.

export class Fft {
  constructor(size) {
    const bits = Math.log2(size);
    const turn = (i) => (2 * Math.PI * i) / size;
    this.size = size;
    this.cosine = Float64Array.from({ length: size }, (_, i) => Math.cos(turn(i)));
    this.sine = Float64Array.from({ length: size }, (_, i) => -Math.sin(turn(i)));
    this.order = Uint32Array.from({ length: size }, (_, i) => {
      let reversed = 0;
      for (let bit = 0; bit < bits; bit++) reversed |= ((i >> bit) & 1) << (bits - 1 - bit);
      return reversed;
    });
    this.first = bits % 2 ? 2 : 1; // size of the parts that steps of four join
  }

  transform(re, im) {
    const { size, order } = this;
    for (let i = 0; i < size; i++) {
      const j = order[i];
      if (j <= i) continue;
      const real = re[i];
      const imaginary = im[i];
      re[i] = re[j];
      im[i] = im[j];
      re[j] = real;
      im[j] = imaginary;
    }
    if (this.first === 2) this.joinPairs(re, im);
    for (let part = this.first; part < size; part *= 4) this.joinFours(re, im, part);
  }

  joinPairs(re, im) {
    for (let a = 0; a < this.size; a += 2) {
      const x = re[a + 1];
      const y = im[a + 1];
      re[a + 1] = re[a] - x;
      im[a + 1] = im[a] - y;
      re[a] += x;
      im[a] += y;
    }
  }

  joinFours(re, im, part) {
    const { size, cosine, sine } = this;
    for (let k = 0; k < part; k++) {
      const turn = (k * size) / (4 * part);
      const c1 = cosine[turn];
      const c2 = cosine[2 * turn];
      const c3 = cosine[3 * turn];
      const s1 = sine[turn];
      const s2 = sine[2 * turn];
      const s3 = sine[3 * turn];
      for (let a = k; a < size; a += 4 * part) {
        const b = a + part;
        const c = b + part;
        const d = c + part;
        const bx = re[b] * c2 - im[b] * s2;
        const by = re[b] * s2 + im[b] * c2;
        const cx = re[c] * c1 - im[c] * s1;
        const cy = re[c] * s1 + im[c] * c1;
        const dx = re[d] * c3 - im[d] * s3;
        const dy = re[d] * s3 + im[d] * c3;
        const evenX = re[a] + bx;
        const evenY = im[a] + by;
        const oddX = re[a] - bx;
        const oddY = im[a] - by;
        re[a] = evenX + cx + dx;
        im[a] = evenY + cy + dy;
        re[b] = oddX + cy - dy;
        im[b] = oddY + dx - cx;
        re[c] = evenX - cx - dx;
        im[c] = evenY - cy - dy;
        re[d] = oddX - cy + dy;
        im[d] = oddY - dx + cx;
      }
    }
  }

  // The energy in bins start … end - 1 of one of two real signals: the real part (sign 1) or the imaginary part (-1).
  energy(re, im, sign, start, end) {
    let sum = 0;
    for (let k = start; k < end; k++) {
      const other = (this.size - k) & (this.size - 1);
      const x = re[k] + sign * re[other];
      const y = im[k] - sign * im[other];
      sum += x * x + y * y;
    }
    return sum / 4;
  }
}
