// All recordings of a `.players` play at once, all but the chosen one silently: a switch changes nothing else.
// One clock takes all recordings, so that they stay together: window.audioContext.
function connectPlayers(root) {
  const sounds = [...root.querySelectorAll("audio")];
  const choices = [...root.querySelectorAll("input")];
  const chosen = () => sounds[choices.findIndex((choice) => choice.checked)];
  let heard = chosen();
  let gains;
  const connect = () => {
    window.audioContext ??= new AudioContext();
    gains = sounds.map((sound) => {
      const gain = new GainNode(audioContext, { gain: Number(sound === heard) });
      audioContext.createMediaElementSource(sound).connect(gain).connect(audioContext.destination);
      return gain;
    });
  };
  // A recording that is a little early or late gets there by its speed: a jump takes a moment, which would be late again.
  const align = (sound) => {
    const late = heard.currentTime - sound.currentTime;
    const near = Math.abs(late) < 0.2 && !heard.paused;
    if (!near && (heard.paused || !sound.seeking)) sound.currentTime = heard.currentTime;
    sound.playbackRate = heard.playbackRate * (near && Math.abs(late) > 0.003 ? 1 + 3 * late : 1);
  };
  const follow = ({ target, type }) => {
    if (target !== heard) return;
    if (type === "play" && !gains) connect();
    if (type === "play") audioContext.resume();
    for (const sound of sounds.filter((each) => each !== heard)) {
      align(sound);
      if (heard.paused) sound.pause();
      else sound.play();
    }
  };
  const choose = () => {
    const last = heard;
    heard = chosen();
    for (const name of ["muted", "volume", "playbackRate"]) heard[name] = last[name];
    gains?.forEach((gain, i) => gain.gain.setTargetAtTime(Number(sounds[i] === heard), audioContext.currentTime, 0.01));
    for (const sound of sounds) sound.hidden = sound !== heard;
  };
  const events = ["play", "pause", "seeked", "timeupdate"];
  for (const sound of sounds) for (const name of events) sound.addEventListener(name, follow);
  for (const choice of choices) choice.addEventListener("change", choose);
  choose();
}
