// What lies over a machine's screen or terminal while there is none: connecting, lost, ended. And the
// page's state in words on the tool bar, in the title and as `data-state` on the root element.
import { $ } from "./dom.js";

const WORDS = { connecting: "Connecting", connected: "Connected", disconnected: "Connection lost", ended: "Ended" };

let countdown;
/** The machine is switched off and on: that its screen goes meanwhile is no lost connection. */
let isCycling = false;
let tries = 0;

function state(name) {
  clearInterval(countdown);
  document.documentElement.dataset.state = name;
  $("words").textContent = isCycling && name !== "ended" ? "Switching off and on" : WORDS[name];
}

/** It is switched off and on from now on, or was not after all. */
export function cycling(is) {
  isCycling = is;
}

/** The page's state: connecting, connected, disconnected or ended. */
export function stateNow() {
  return document.documentElement.dataset.state;
}

function veil({ title, text, spin = false, retry = false, home = false }) {
  $("veil").hidden = false;
  $("veil-title").textContent = title;
  // Said once: the countdown below changes twice a second.
  if ($("veil-said").textContent !== title) $("veil-said").textContent = title;
  $("veil-text").textContent = text;
  $("veil-spinner").hidden = !spin;
  $("retry").hidden = !retry;
  $("veil-home").hidden = !home;
}

function comesBack(what) {
  veil({ title: "Switching it off and on…", text: `Its ${what} comes back in a moment.`, spin: true, retry: true, home: true });
}

/** A (new) connection to the `what` (screen or terminal) is being made; the page calls it `name`. */
export function connecting(attempt, what, name = what) {
  tries = attempt;
  state("connecting");
  if (attempt === 0) veil({ title: `Connecting to your ${name}`, text: "One moment…", spin: true });
  // Two tries later it is no power cycle any more.
  else if (isCycling && attempt <= 2) comesBack(what);
  else veil({ title: "Connection lost", text: "Trying again now…", spin: true, home: true });
}

/** It is there. */
export function connected() {
  isCycling = false;
  state("connected");
  $("veil").hidden = true;
}

/** The connection is gone: counts down to the next try, and says `goesOn` meanwhile. */
export function lost(nextTry, startsAgain, what, goesOn) {
  isCycling = startsAgain || (isCycling && tries <= 2);
  state("disconnected");
  if (isCycling) return comesBack(what);
  const tell = () => {
    const seconds = Math.max(0, Math.ceil((nextTry - Date.now()) / 1000));
    veil({ title: "Connection lost", text: `${goesOn} Trying again in ${seconds} s.`, spin: true, retry: true, home: true });
  };
  tell();
  countdown = setInterval(tell, 500);
}

/** There is nothing more to wait for. */
export function ended(title, text) {
  state("ended");
  document.title = `${title}: VM-share`;
  veil({ title, text, home: true });
  $("veil-home").focus();
}
