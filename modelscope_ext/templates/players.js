// All recordings of a `.players` play at once, all but the chosen one silently: a switch changes nothing else.
function connectPlayers(root) {
  const sounds = [...root.querySelectorAll("audio")];
  const choices = [...root.querySelectorAll("input")];
  const chosen = () => sounds[choices.findIndex((choice) => choice.checked)];
  const align = (sound, other) => {
    if (Math.abs(sound.currentTime - other.currentTime) > 0.03) sound.currentTime = other.currentTime;
  };
  const follow = (event) => {
    const heard = chosen();
    if (event.target !== heard) return;
    for (const sound of sounds.filter((each) => each !== heard)) {
      align(sound, heard);
      if (heard.paused) sound.pause();
      else sound.play();
    }
  };
  let last = chosen();
  const choose = () => {
    const heard = chosen();
    if (heard !== last) align(heard, last);
    heard.volume = last.volume;
    for (const sound of sounds) {
      sound.muted = sound !== heard;
      sound.hidden = sound !== heard;
    }
    last = heard;
  };
  for (const sound of sounds) for (const name of ["play", "pause", "seeked"]) sound.addEventListener(name, follow);
  for (const choice of choices) choice.addEventListener("change", choose);
  choose();
}
