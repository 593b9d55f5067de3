// The keys a phone's keyboard does not have, as a row of buttons.
import { $, make } from "../shared/dom.js";

// What a VT100 sends for them.
const KEYS = [["Esc", "\x1b", "Escape"], ["Tab", "\t", "Tab"], ["←", "\x1b[D", "Left"], ["↑", "\x1b[A", "Up"], ["↓", "\x1b[B", "Down"], ["→", "\x1b[C", "Right"]];

let held = false;
let control;

function hold(on) {
  held = on;
  control.setAttribute("aria-pressed", String(on));
}

/** What is typed while Ctrl is held is its control character; it is held for one key. */
export function withControl(text) {
  if (!held || text.length !== 1) return text;
  hold(false);
  const code = text.toUpperCase().charCodeAt(0);
  return code >= 0x40 && code <= 0x5f ? String.fromCharCode(code - 0x40) : text;
}

/** Shows the row where there is a touch screen; `type(text)` sends what a key stands for. */
export function setUpPhoneKeys(type) {
  const key = (words, label, press) => {
    const button = make("button", { type: "button", class: "tool", "aria-label": label }, words);
    // The terminal keeps the focus, so the phone keeps its keyboard.
    button.addEventListener("pointerdown", (event) => event.preventDefault());
    button.addEventListener("click", press);
    return button;
  };
  control = key("Ctrl", "Control, for the next key", () => hold(!held));
  control.setAttribute("aria-pressed", "false");
  $("phone-keys").append(control, ...KEYS.map(([words, text, label]) => key(words, label, () => type(text))));
  $("phone-keys").hidden = !(navigator.maxTouchPoints > 0 || matchMedia("(pointer: coarse)").matches);
}
