// The Fourier transform of a power of two of complex samples, in place. transform(im, re) is the inverse times the size.

export class Fft {
  constructor(size) {
    const bits = Math.log2(size);
    this.size = size;
    this.re = new Float64Array(size); // between the first step and the last
    this.im = new Float64Array(size);
    this.first = bits % 2 ? 2 : 4; // samples that the first step joins
    this.order = Uint32Array.from({ length: size / this.first }, (_, i) => {
      let reversed = 0;
      for (let bit = 0, at = i * this.first; bit < bits; bit++) reversed |= ((at >> bit) & 1) << (bits - 1 - bit);
      return reversed;
    });
    this.turns = []; // of each step after the first: cosines and sines of one, two and three turns for each k
    for (let part = this.first; part < size; part *= 4) {
      this.turns.push(Float64Array.from({ length: 6 * part }, (_, i) => {
        const angle = (-2 * Math.PI * Math.floor(i / 6) * ((i % 6 >> 1) + 1)) / (4 * part);
        return i % 2 ? Math.sin(angle) : Math.cos(angle);
      }));
    }
  }

  transform(re, im) {
    if (this.first === 2) this.joinPairs(re, im);
    else this.joinQuads(re, im);
    const last = this.turns.length - 1;
    this.turns.forEach((turns, i) => this.joinFours(turns, i === last ? re : this.re, i === last ? im : this.im));
  }

  joinPairs(re, im) {
    const { size, order, re: toRe, im: toIm } = this;
    for (let i = 0, to = 0; to < size; i++, to += 2) {
      const a = order[i];
      const b = a + size / 2;
      toRe[to] = re[a] + re[b];
      toIm[to] = im[a] + im[b];
      toRe[to + 1] = re[a] - re[b];
      toIm[to + 1] = im[a] - im[b];
    }
  }

  joinQuads(re, im) {
    const { size, order, re: toRe, im: toIm } = this;
    const quarter = size / 4;
    for (let i = 0, to = 0; to < size; i++, to += 4) {
      const a = order[i];
      const c = a + quarter;
      const b = c + quarter;
      const d = b + quarter;
      const evenX = re[a] + re[b];
      const evenY = im[a] + im[b];
      const oddX = re[a] - re[b];
      const oddY = im[a] - im[b];
      const sumX = re[c] + re[d];
      const sumY = im[c] + im[d];
      const differX = re[c] - re[d];
      const differY = im[c] - im[d];
      toRe[to] = evenX + sumX;
      toIm[to] = evenY + sumY;
      toRe[to + 1] = oddX + differY;
      toIm[to + 1] = oddY - differX;
      toRe[to + 2] = evenX - sumX;
      toIm[to + 2] = evenY - sumY;
      toRe[to + 3] = oddX - differY;
      toIm[to + 3] = oddY + differX;
    }
  }

  joinFours(turns, toRe, toIm) {
    const { size, re, im } = this;
    const part = turns.length / 6;
    for (let k = 0, turn = 0; k < part; k++, turn += 6) {
      const c1 = turns[turn];
      const s1 = turns[turn + 1];
      const c2 = turns[turn + 2];
      const s2 = turns[turn + 3];
      const c3 = turns[turn + 4];
      const s3 = turns[turn + 5];
      for (let a = k; a < size; a += 4 * part) {
        const b = a + part;
        const c = b + part;
        const d = c + part;
        const x = re[a];
        const y = im[a];
        const rb = re[b];
        const ib = im[b];
        const rc = re[c];
        const ic = im[c];
        const rd = re[d];
        const id = im[d];
        const bx = rb * c2 - ib * s2;
        const by = rb * s2 + ib * c2;
        const cx = rc * c1 - ic * s1;
        const cy = rc * s1 + ic * c1;
        const dx = rd * c3 - id * s3;
        const dy = rd * s3 + id * c3;
        const evenX = x + bx;
        const evenY = y + by;
        const oddX = x - bx;
        const oddY = y - by;
        const sumX = cx + dx;
        const sumY = cy + dy;
        const differX = cx - dx;
        const differY = cy - dy;
        toRe[a] = evenX + sumX;
        toIm[a] = evenY + sumY;
        toRe[b] = oddX + differY;
        toIm[b] = oddY - differX;
        toRe[c] = evenX - sumX;
        toIm[c] = evenY - sumY;
        toRe[d] = oddX - differY;
        toIm[d] = oddY + differX;
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
