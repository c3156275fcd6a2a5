// All that the page says, in its two languages.

const WORDS = {
  en: {
    title: "Remove noise from speech",
    language: "中文",
    promise: "Nothing leaves this computer. The page works without a network once it is loaded.",
    file: "A recording or a video",
    choose: "Choose files or drop them here",
    example: "Try the example",
    cancel: "Cancel",
    list: "Files",
    waiting: "Waiting",
    cancelled: "Cancelled.",
    all: "{good} of {count} files are done.",
    play: "Play",
    pause: "Pause",
    position: "Position",
    denoised: "Denoised",
    before: "Before",
    after: "After",
    beforeCaption: "Before: {length}, up to {khz} kHz",
    afterCaption: "After: {length}, up to {khz} kHz",
    beforePicture: "Spectrogram before denoising",
    afterPicture: "Spectrogram after denoising",
    download: "Download",
    microphone: "The microphone",
    headphones: "Wear headphones: a loudspeaker would feed the microphone.",
    start: "Start",
    stop: "Stop",
    levelBefore: "Level before",
    levelAfter: "Level after",
    progress: "Progress",
    loading: "Loading the model …",
    working: "{percent} % done, {left} left",
    done: "Done: {length} in {busy} s.",
    cut: "Done: {length} in {busy} s. The file should be {promised} long: its sound may be cut off.",
    incomplete: "Done: {length} in {busy} s. The file is cut off: its end is missing.",
    open: "Done: {length} in {busy} s. The file has no mark of its end: it may be cut off.",
    live: "Latency {latency} ms, load {load} %, dropped blocks {dropped}.",
    stopped: "",
    empty: "This file has no sound in it: it is empty.",
    soundless: "This file has no audio track.",
    infinite: "This file is damaged: it has samples that are no numbers.",
    undecodable: "The browser cannot read this file: it is damaged or of another kind than wav, mp3, m4a, mp4, webm, ogg or flac.",
    kind: "This wav file is of the kind {detail}, which browsers do not read. Save it as wav with 16 bits, or use the command modelscope-ext denoise.",
    long: "This file is longer than 3 hours. Cut it, or use the command modelscope-ext denoise.",
    rate: "The page takes sample rates from 3 to 768 kHz, and this file has another one.",
    large: "This browser reads only short files of this kind. Take a wav file, or another browser.",
    denied: "The page may not use the microphone. Allow it in the browser's settings.",
    none: "There is no microphone.",
    failed: "This did not work: {detail}",
  },
  zh: {
    title: "去除语音中的噪声",
    language: "English",
    promise: "数据不会离开这台电脑。页面加载一次之后，没有网络也能使用。",
    file: "录音或视频",
    choose: "选择文件，或拖到这里",
    example: "试听示例",
    cancel: "取消",
    list: "文件",
    waiting: "等待中",
    cancelled: "已取消。",
    all: "{count} 个文件中完成了 {good} 个。",
    play: "播放",
    pause: "暂停",
    position: "位置",
    denoised: "降噪",
    before: "处理前",
    after: "处理后",
    beforeCaption: "处理前：{length}，至 {khz} kHz",
    afterCaption: "处理后：{length}，至 {khz} kHz",
    beforePicture: "处理前的频谱图",
    afterPicture: "处理后的频谱图",
    download: "下载",
    microphone: "麦克风",
    headphones: "请戴耳机：扬声器的声音会回到麦克风。",
    start: "开始",
    stop: "停止",
    levelBefore: "处理前电平",
    levelAfter: "处理后电平",
    progress: "进度",
    loading: "正在加载模型……",
    working: "已完成 {percent} %，剩余 {left}",
    done: "完成：{length}，用时 {busy} 秒。",
    cut: "完成：{length}，用时 {busy} 秒。文件应有 {promised}：声音可能被截断。",
    incomplete: "完成：{length}，用时 {busy} 秒。文件被截断：缺少结尾。",
    open: "完成：{length}，用时 {busy} 秒。文件没有结束标记：可能被截断。",
    live: "延迟 {latency} 毫秒，负载 {load} %，丢块 {dropped} 个。",
    stopped: "",
    empty: "文件里没有声音：它是空的。",
    soundless: "文件里没有音轨。",
    infinite: "文件已损坏：含有无效的采样值。",
    undecodable: "浏览器无法读取这个文件：它已损坏，或不是 wav、mp3、m4a、mp4、webm、ogg 或 flac。",
    kind: "这个 wav 文件是 {detail} 格式，浏览器无法读取。请存为 16 位的 wav，或使用命令 modelscope-ext denoise。",
    long: "文件超过 3 小时。请截短，或使用命令 modelscope-ext denoise。",
    rate: "页面支持 3 至 768 kHz 的采样率，这个文件不在此范围内。",
    large: "此浏览器只能读取较短的这类文件。请改用 wav 文件或其他浏览器。",
    denied: "页面不能使用麦克风。请在浏览器设置中允许。",
    none: "没有麦克风。",
    failed: "失败：{detail}",
  },
};

let language = navigator.language.startsWith("zh") ? "zh" : "en";
const shown = new Map(); // element → [word, details]

export const word = (name, details = {}) =>
  WORDS[language][name].replace(/\{(\w+)\}/g, (_, detail) => details[detail] ?? "");

// Show a word in an element, also after a change of the language.
export function say(element, name, details) {
  shown.set(element, [name, details]);
  element.textContent = word(name, details);
}

export function translate() {
  document.documentElement.lang = language;
  document.title = word("title");
  for (const element of document.querySelectorAll("[data-word]")) element.textContent = word(element.dataset.word);
  for (const element of document.querySelectorAll("[data-label]")) element.ariaLabel = word(element.dataset.label);
  for (const [element, [name, details]] of shown) element.textContent = word(name, details);
}

export function switchLanguage() {
  language = language === "en" ? "zh" : "en";
  translate();
}
