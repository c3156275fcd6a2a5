import { Row } from "./list.js";
import { header, Player } from "./player.js";
import { say, switchLanguage, translate } from "./words.js";

const $ = (id) => document.getElementById(id);
const newWorker = () => new Worker(new URL("worker.js", import.meta.url), { type: "module" });

function clock(exact) {
  const seconds = Math.round(exact);
  return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
}

translate();
$("language").onclick = switchLanguage;
navigator.serviceWorker?.register(new URL("offline.js", import.meta.url));

function onSwitch(button, changed) {
  button.onclick = () => {
    const on = button.ariaChecked !== "true";
    button.ariaChecked = on;
    changed(on);
  };
}

// A worker that has nothing to do: it loads while the page does, and its code gets faster with use.
let spare = newWorker();

function takeWorker() {
  const taken = spare ?? newWorker();
  spare = null;
  return taken;
}

function release(worker) {
  if (spare) worker.terminate();
  else spare = worker;
}

// Files

let entries = []; // the files that were given, with their rows and results; they are denoised in turn
let running = null; // the one that is being denoised
let worker = null; // that does it
let player = null;

function take(files) {
  if (!files.length) return;
  if (!running) clear();
  for (const file of files) {
    const entry = { file, row: new Row($("list"), file.name, () => show(entry)) };
    entries.push(entry);
  }
  $("list").hidden = entries.length < 2;
  if (!running) next();
}

function clear() {
  player?.pause();
  player = null;
  $("result").hidden = true;
  for (const { row } of entries) row.remove();
  entries = [];
}

function next() {
  running = entries[entries.indexOf(running) + 1];
  if (running) return denoise(running);
  $("working").hidden = true;
  const good = entries.filter(({ done }) => done).length;
  if (entries.length > 1) say($("status"), "all", { good, count: entries.length });
}

function tell(name, details) {
  running.row.say(name, details);
  say($("status"), name, details);
}

function stopWorker() {
  worker?.terminate();
  worker = null;
  spare ??= newWorker();
}

function keepWorker() {
  release(worker);
  worker = null;
}

function problem({ word: name, detail }) {
  stopWorker();
  tell(name, { detail });
  next();
}

function denoise(entry, decoded) {
  $("working").hidden = false;
  $("progress").removeAttribute("value");
  tell("loading");
  const blobs = { before: [], after: [] };
  const began = performance.now();
  worker = takeWorker();
  worker.onerror = (event) => problem({ word: "failed", detail: event.message });
  worker.onmessage = ({ data }) => {
    if (data.kind === "block") {
      blobs.before.push(data.before);
      blobs.after.push(data.after);
      showProgress(data, (performance.now() - began) / 1000);
    } else if (data.kind === "done") {
      keepWorker();
      finish(entry, data, [new Blob(blobs.before), new Blob(blobs.after)]);
    } else if (data.kind === "problem") {
      if (data.word !== "failed") keepWorker();
      if (data.word === "undecodable" && !decoded) decodeFirst(entry, data);
      else problem(data);
    }
  };
  worker.postMessage({ file: entry.file, decoded });
}

function showProgress({ seconds, of }, elapsed) {
  const share = Math.min(1, seconds / of);
  $("progress").value = share;
  if (share) tell("working", { percent: Math.floor(100 * share), left: clock(elapsed * (1 / share - 1)) });
}

function decodeFirst(entry, about) {
  const ifMine = (next) => (result) => entry === running && next(result);
  decodeWhole(entry.file, about).then(ifMine((decoded) => denoise(entry, decoded)), ifMine(problem));
}

// For browsers and formats without a decoder that reads a file piece by piece.
async function decodeWhole(file, { rate = 48000, seconds = 0, promised, of }) {
  if (file.size > 50e6 || seconds > 1800) throw { word: "large" };
  try {
    const buffer = await new OfflineAudioContext(1, 1, rate).decodeAudioData(await file.arrayBuffer());
    const audio = Array.from({ length: buffer.numberOfChannels }, (_, channel) => buffer.getChannelData(channel));
    return { audio, rate: buffer.sampleRate, promised };
  } catch {
    throw { word: of ? "kind" : "undecodable", detail: of };
  }
}

function finish(entry, done, recordings) {
  const { rate, channels, frames, busy, promised, missing, cut } = done;
  const name = missing > 1 ? "cut" : cut === "open" ? "open" : cut || missing ? "incomplete" : "done";
  tell(name, { length: clock(frames / rate), busy: (busy / 1000).toFixed(1), promised: clock(promised) });
  $("status").dataset.load = busy / 1000 / (frames / rate);
  const wav = new Blob([header(rate, channels, recordings[1].size), recordings[1]], { type: "audio/wav" });
  entry.row.offer(wav, `${entry.file.name.replace(/\.\w+$/, "")}_denoised.wav`);
  Object.assign(entry, { done, recordings });
  if (!player) show(entry); // the others by their buttons
  next();
}

function show(entry) {
  const { rate, frames, pictures } = entry.done;
  ["before", "after"].forEach((name, i) => {
    draw($(name), pictures[i]);
    say($(`${name}-caption`), `${name}Caption`, { khz: Math.round(rate / 2000), length: clock(frames / rate) });
  });
  const { href, download } = entry.row.link;
  Object.assign($("download"), { href, download });
  for (const { row } of entries) row.button.ariaPressed = row === entry.row;
  player?.pause();
  player = new Player(entry.recordings, entry.done, showPosition);
  player.choose($("denoised").ariaChecked === "true" ? 1 : 0);
  $("position").max = frames / rate;
  $("result").hidden = false;
  showPosition();
}

function showPosition() {
  if (!player) return;
  const { position, rate, frames, context } = player;
  $("position").value = position / rate;
  $("position").ariaValueText = $("time").textContent = `${clock(position / rate)} / ${clock(frames / rate)}`;
  say($("play"), context ? "pause" : "play");
}

// The colour of each level, as bytes of red, green, blue and what covers.
const colours = new Uint32Array(
  Uint8ClampedArray.from({ length: 1024 }, (_, i) => {
    const x = (i >> 2) / 255;
    return 255 * [1.6 * x, 1.6 * x - 0.6, 0.55 * Math.sin(3 * x) + 0.9 * Math.max(0, x - 0.75), 1][i % 4];
  }).buffer,
);

function draw(canvas, { width, height, levels }) {
  Object.assign(canvas, { width, height });
  const image = new ImageData(width || 1, height);
  const pixels = new Uint32Array(image.data.buffer);
  levels.forEach((level, i) => (pixels[i] = colours[level]));
  canvas.getContext("2d").putImageData(image, 0, 0);
}

$("file").onchange = ({ target }) => {
  take([...target.files]);
  target.value = "";
};
$("example").onclick = async () => {
  const answer = await fetch(new URL("example.mp3", import.meta.url));
  take([new File([await answer.blob()], "example.mp3")]);
};
$("cancel").onclick = () => {
  stopWorker();
  for (const { row } of entries.slice(entries.indexOf(running))) row.say("cancelled");
  say($("status"), "cancelled");
  running = null;
  $("working").hidden = true;
};
$("play").onclick = () => {
  if (player.context) player.pause();
  else player.play();
  showPosition();
};
$("position").oninput = ({ target }) => player.seek(Math.round(target.value * player.rate));
onSwitch($("denoised"), (on) => player?.choose(on ? 1 : 0));
document.ondragover = (event) => event.preventDefault();
document.ondrop = (event) => {
  event.preventDefault();
  take([...event.dataTransfer.files]);
};

// The microphone

let live = null; // what runs: { context, media, worker, node }

async function startLive() {
  $("microphone").disabled = true;
  live = {};
  try {
    const raw = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
    live.media = await navigator.mediaDevices.getUserMedia({ audio: { ...raw, channelCount: 1 } });
    live.context = new AudioContext({ latencyHint: "interactive" });
    await live.context.audioWorklet.addModule(new URL("live.js", import.meta.url));
    live.worker = takeWorker();
    await connectLive();
    say($("microphone"), "stop");
    $("meters").hidden = false;
  } catch (error) {
    live.worker?.terminate();
    delete live.worker;
    stopLive();
    const known = { NotAllowedError: "denied", NotFoundError: "none" };
    say($("live"), known[error.name] ?? "failed", { detail: error.message });
  }
  $("microphone").disabled = false;
}

async function connectLive() {
  const started = live;
  const { worker, context, media } = started;
  say($("live"), "loading");
  const { port1, port2 } = new MessageChannel();
  const ready = new Promise((resolve, reject) => {
    worker.onmessage = ({ data }) => {
      if (data.kind === "ready") resolve(data);
      else if (data.kind === "load") started.load = data.load;
      else reject(new Error(data.detail));
    };
    worker.onerror = (event) => reject(new Error(event.message));
  });
  worker.postMessage({ port: port1, rate: context.sampleRate }, [port1]);
  const { hop } = await ready;
  const reserve = Math.round((hop + 0.1) * context.sampleRate);
  live.node = new AudioWorkletNode(context, "live", {
    outputChannelCount: [1],
    channelCount: 1,
    channelCountMode: "explicit",
    processorOptions: { reserve },
  });
  live.node.port.onmessage = ({ data }) => showLive(data);
  live.node.port.postMessage({ worker: port2 }, [port2]);
  live.node.port.postMessage({ denoised: $("live-denoised").ariaChecked === "true" });
  context.createMediaStreamSource(media).connect(live.node).connect(context.destination);
}

function showLive({ levels, latency, dropped, playing }) {
  if (!live) return;
  ["level-before", "level-after"].forEach((id, i) => ($(id).value = levels[i]));
  const { baseLatency, outputLatency = 0 } = live.context;
  const ms = Math.round(1000 * (latency + baseLatency + outputLatency));
  if (playing && live.load !== undefined) say($("live"), "live", { latency: ms, load: Math.round(100 * live.load), dropped });
}

function stopLive() {
  if (live.worker) release(live.worker);
  live.media?.getTracks().forEach((track) => track.stop());
  live.context?.close();
  live = null;
  $("meters").hidden = true;
  say($("microphone"), "start");
  say($("live"), "stopped");
}

$("microphone").onclick = () => (live ? stopLive() : startLive());
onSwitch($("live-denoised"), (denoised) => live?.node?.port.postMessage({ denoised }));
