// The list of the files that were given: a button that shows one, what became of it, and its download.

import { say } from "./words.js";

export class Row {
  constructor(list, name, choose) {
    const [row, button, state, link] = ["li", "button", "span", "a"].map((tag) => document.createElement(tag));
    Object.assign(this, { button, state, link });
    Object.assign(button, { textContent: name, disabled: true, ariaPressed: "false", onclick: choose });
    link.hidden = true;
    row.append(button, state, link);
    list.append(row);
    this.say("waiting");
  }

  say(name, details) {
    say(this.state, name, details);
  }

  offer(blob, name) {
    Object.assign(this.link, { href: URL.createObjectURL(blob), download: name, textContent: name, hidden: false });
    this.button.disabled = false;
  }

  remove() {
    URL.revokeObjectURL(this.link.href);
    this.button.parentElement.remove();
  }
}
