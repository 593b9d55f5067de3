// What lies over the screen while there is none: connecting, lost, ended. And the page's state in
// words on the tool bar, in the title and as `data-state` on the root element.
import { $ } from "../shared/dom.js";

const WORDS = { connecting: "Connecting", connected: "Connected", disconnected: "Connection lost", ended: "Ended" };

const CYCLING = "Switching it off and on…";

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

/** A (new) connection is being made. */
export function connecting(attempt) {
  tries = attempt;
  state("connecting");
  if (attempt === 0) veil({ title: "Connecting to your desktop", text: "One moment…", spin: true });
  // Two tries later it is no power cycle any more.
  else if (isCycling && attempt <= 2) veil({ title: CYCLING, text: "Its screen comes back in a moment.", spin: true, retry: true, home: true });
  else veil({ title: "Connection lost", text: "Trying again now…", spin: true, home: true });
}

/** The screen is there. */
export function connected() {
  isCycling = false;
  state("connected");
  $("veil").hidden = true;
  $("frozen").hidden = true;
}

/** The connection is gone: keeps the last frame, dimmed, and counts down to the next try. */
export function lost(canvas, nextTry, startsAgain) {
  isCycling = startsAgain || (isCycling && tries <= 2);
  state("disconnected");
  if (canvas?.width) {
    const frozen = $("frozen");
    frozen.width = canvas.width;
    frozen.height = canvas.height;
    frozen.getContext("2d").drawImage(canvas, 0, 0);
    frozen.hidden = false;
  }
  if (isCycling) return veil({ title: CYCLING, text: "Its screen comes back in a moment.", spin: true, retry: true, home: true });
  const tell = () => {
    const seconds = Math.max(0, Math.ceil((nextTry - Date.now()) / 1000));
    veil({ title: "Connection lost", text: `Your desktop goes on without you. Trying again in ${seconds} s.`, spin: true, retry: true, home: true });
  };
  tell();
  countdown = setInterval(tell, 500);
}

/** There is nothing more to wait for. */
export function ended(title, text) {
  state("ended");
  document.title = `${title}: VM-share`;
  $("blank").hidden = true;
  veil({ title, text, home: true });
  $("veil-home").focus();
}
