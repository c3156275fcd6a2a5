// What wav, ogg and mp3 files say of their length: the reader of files passes over an end that is missing.

const OGG_TAIL = 2 ** 17; // two of the longest pages
const READABLE = [1, 3, 6, 7, 0xfffe]; // kinds of samples in a wav file
const KINDS = { 2: "Microsoft ADPCM", 0x11: "IMA ADPCM", 0x31: "GSM 6.10", 0x50: "MPEG", 0x55: "mp3" };

const read = async (file, start, end) => new DataView(await file.slice(start, end).arrayBuffer());
const text = (view) => new TextDecoder("latin1").decode(view);
const letters = (view, at) => text(new Uint8Array(view.buffer, at, 4));

// Return { file, cut, promised, kind }: what can be read of a file, whether its end is missing ("open": whole, but not
// marked as its end), how many seconds it should have, if it says so (null: it does not, and nothing should be guessed
// from its size), and the name of a kind of wav that cannot be read.
export async function checked(file) {
  const view = await read(file, 0, 12);
  if (view.byteLength < 12) return { file };
  if (letters(view, 0) === "OggS") return checkedOgg(file);
  const isWav = letters(view, 0) === "RIFF" && letters(view, 8) === "WAVE";
  if (isWav) return checkedWav(file, 8 + view.getUint32(4, true));
  const tagged = letters(view, 0).startsWith("ID3");
  if (!tagged && view.getUint16(0) < 0xffe0) return { file };
  const tag = [6, 7, 8, 9].reduce((size, at) => 128 * size + view.getUint8(at), 0);
  const start = tagged ? 10 + tag : 0;
  const counted = /Xing|Info|VBRI/.test(text(await read(file, start, start + 64))); // frames of an mp3 file
  return counted ? { file } : { file, promised: null };
}

async function checkedWav(file, end) {
  let bytesPerSecond;
  let kind;
  for (let at = 12, size; at + 24 <= file.size; at += 8 + size + (size % 2)) {
    const view = await read(file, at, at + 24);
    size = view.getUint32(4, true);
    if (letters(view, 0) === "fmt ") {
      bytesPerSecond = view.getUint32(16, true);
      const format = view.getUint16(8, true);
      if (!READABLE.includes(format)) kind = KINDS[format] ?? `0x${format.toString(16)}`;
    }
    if (letters(view, 0) !== "data") continue;
    const there = file.size - at - 8;
    const unknown = (size === 0 && end <= at + 8) || [0x7ffff, 0x80000, 0xfffff].includes(size >>> 12); // of a recorder
    const cut = !unknown && size > there;
    const length = unknown || cut ? there : size;
    const whole = end >= at + 8 + length && size >= length ? file : await repaired(file, at, length);
    return { file: whole, cut, kind, promised: cut ? size / bytesPerSecond : undefined };
  }
  return { file };
}

async function repaired(file, at, length) {
  const header = await read(file, 0, at + 8);
  header.setUint32(4, at + length, true);
  header.setUint32(at + 4, length, true);
  return new Blob([header, file.slice(at + 8, at + 8 + length)]);
}

// The last page may not be whole: an end is missing unless the page before it is marked as the last, as in Python. Some
// recorders mark none.
async function checkedOgg(file) {
  const start = Math.max(0, file.size - OGG_TAIL);
  const tail = new Uint8Array(await file.slice(start).arrayBuffer());
  const isPage = (at) => tail[at] === 79 && tail[at + 1] === 103 && tail[at + 2] === 103 && tail[at + 3] === 83;
  let [last, whole] = [0, tail.length];
  for (let at = 0; at < tail.length; ) {
    if (!isPage(at)) {
      at++;
      continue;
    }
    const lengths = tail.subarray(at + 27, at + 27 + tail[at + 26]);
    const end = at + 27 + tail[at + 26] + lengths.reduce((sum, length) => sum + length, 0);
    if (!(end <= tail.length)) break; // also if its header is not whole
    last = tail[at + 5];
    at = whole = end;
  }
  return { file: file.slice(0, start + whole), cut: !(last & 4) && (whole < tail.length || "open") };
}
