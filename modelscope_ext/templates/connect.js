// Connects the players whenever the page of the demo shows new ones.
const connect = () => element.querySelectorAll(".players:not([data-connected])").forEach((players) => {
  players.dataset.connected = "";
  connectPlayers(players);
});
new MutationObserver(connect).observe(element, { childList: true, subtree: true });
connect();
