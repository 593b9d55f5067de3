// The terminal page: the guest's serial console in the whole window.
import { onChord } from "../desktop/bar.js";
import { askAndRestart, epitaph, stillThere } from "../desktop/machine.js";
import { RESTARTING, doing, tellTheWay, wayFound } from "../desktop/progress.js";
import { showTools, otherPage, readAddress, socketUrl } from "../desktop/address.js";
import { $, badge, copyText } from "../shared/dom.js";
import { setUpTrouble, trouble } from "../shared/trouble.js";
import * as veil from "../shared/veil.js";
import { viewing } from "../shared/viewer.js";
import { setUpWarning, warnOf } from "../shared/warning.js";
import { watching } from "../shared/words.js";
import { keepConnected } from "./connection.js";
import { setUpPhoneKeys } from "./keys.js";
import { openScreen } from "./screen.js";

const SILENCE_MS = 3000;

const address = readAddress(location, "serial");
let connection = null;
/** The stream of what is new about the machine, or about what a viewer may. */
let news = null;
let silence;

function note(text) {
  $("note").hidden = !text;
  $("note").textContent = text;
}

const screen = openScreen((bytes) => {
  if (connection && !address.viewOnly && !connection.send(bytes)) note("The guest is slow to take what is typed. Wait a moment.");
});

/** What was noted was of the state before. */
function calm() {
  clearTimeout(silence);
  note("");
}

async function end(why) {
  news?.close();
  doing("");
  calm();
  $("way").hidden = true;
  const [title, text] = await epitaph(why, address ?? {}, "terminal");
  for (const tool of document.querySelectorAll("[data-tool]")) tool.hidden = true;
  veil.ended(title, text);
}

function live() {
  screen.goLive();
  silence = setTimeout(() => screen.isEmpty() && note("The guest has written nothing here yet. Press Enter. If it stays empty, its system does not use the serial console (ttyS0)."), SILENCE_MS);
}

/** News of the machine; it may be stopped from elsewhere. */
function told(vm) {
  badge($("watched"), watching(vm?.watched_by));
  if (vm?.state === "stopping") doing("Shutting down…");
}

function connect() {
  connection = keepConnected({
    url: () => socketUrl(address),
    onConnecting(attempt) {
      calm();
      veil.connecting(attempt, "terminal");
    },
    onConnected() {
      calm();
      veil.connected();
      address.cameBefore = true;
      news?.renew?.();
      if (!address.viewOnly) tellTheWay();
      screen.restart();
      if (!document.activeElement?.closest("header, dialog, .below")) screen.term.focus();
    },
    onBytes(bytes) {
      screen.term.write(bytes);
      if (!$("note").hidden) note("");
    },
    onLive: live,
    onLost(nextTry, startsAgain) {
      calm();
      veil.lost(nextTry, startsAgain, "terminal", "Your desktop goes on without you; what is typed now is lost.");
    },
    onEnded: end,
    stillThere: () => stillThere(address),
  });
}

/** What this person types goes on to the machine, or not. */
function allow(control) {
  address.viewOnly = !control;
  $("desktop-open").href = otherPage(address);
  $("view-only").hidden = control;
  showTools(address);
}

async function copy() {
  const text = screen.term.getSelection();
  if (!text) note("Select something with the mouse first, then copy it.");
  else note((await copyText(text)) ? "Copied." : "This browser does not let pages copy. Press Ctrl+C.");
  screen.term.focus();
}

async function paste() {
  try {
    const text = await navigator.clipboard.readText();
    if (text) screen.term.paste(text);
    else note("There is no text in your clipboard. Copy some first.");
  } catch {
    note("This browser does not let pages read the clipboard. Press Ctrl+Shift+V.");
  }
  screen.term.focus();
}

function setUpKeys() {
  screen.term.attachCustomKeyEventHandler((event) => {
    const shifted = event.ctrlKey && event.shiftKey && !event.altKey;
    // Not the terminal's: the browser pastes, and we copy.
    if (shifted && event.code === "KeyV") return false;
    if (shifted && event.code === "KeyC") {
      event.preventDefault();
      if (event.type === "keydown") copy();
      return false;
    }
    return true;
  });
  onChord(() => {
    wayFound();
    $("home").focus();
  });
}

setUpKeys();
setUpPhoneKeys((text) => screen.term.input(text, true));
if (address) {
  allow(!address.viewOnly);
  $("retry").addEventListener("click", () => connection.retryNow());
  $("copy").addEventListener("click", copy);
  $("paste").addEventListener("click", paste);
  $("size").addEventListener("click", () => {
    connection.send(new TextEncoder().encode(` stty cols ${screen.term.cols} rows ${screen.term.rows}\r`));
    screen.term.focus();
  });
  $("restart-open").addEventListener("click", async () => {
    const problem = await askAndRestart(address, (mode) => {
      doing(RESTARTING[mode]);
      veil.cycling(mode === "power-cycle");
    });
    if (problem) veil.cycling(false);
    doing("");
    trouble(problem);
    screen.term.focus();
  });
  setUpTrouble(() => screen.term.focus());
  setUpWarning(() => screen.term.focus());
  if (address.share || address.watches) news = viewing(address, allow);
  else news = warnOf(address, told);
  connect();
} else {
  end("address");
}
// Another link in the same tab is another desktop.
addEventListener("hashchange", () => location.reload());
