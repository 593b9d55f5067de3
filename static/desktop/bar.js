// The tool bar: comes when asked, goes by itself, never in the way of the keyboard.
//
// All keys belong to the guest, Tab too, so the way back is a chord no guest misses: Ctrl, Alt and
// Shift pressed and released together with nothing else between. It acts on release, so that the
// guest sees the keys go up and none stays stuck, and AltGr+Shift for a letter does not count.
import { $ } from "../shared/dom.js";

const STAY_MS = 4000;
const MODIFIERS = ["Control", "Alt", "Shift"];

let timer;
let giveBack = () => {};

const panels = () => [$("view"), $("keys"), $("text")];

function wanted() {
  return $("bar").matches(":hover, :focus-within") || panels().some((panel) => !panel.hidden) || document.documentElement.dataset.state !== "connected";
}

function away() {
  clearTimeout(timer);
  if (wanted()) return void (timer = setTimeout(away, STAY_MS));
  $("bar").dataset.away = "true";
}

/** Shows the bar; it leaves again after a while without use. */
export function showBar() {
  $("bar").dataset.away = "false";
  clearTimeout(timer);
  timer = setTimeout(away, STAY_MS);
}

/** Closes every panel. */
export function closePanels() {
  for (const panel of panels()) {
    panel.hidden = true;
    $(`${panel.id}-open`).setAttribute("aria-expanded", "false");
  }
}

function toggle(panel) {
  const opening = panel.hidden;
  closePanels();
  panel.hidden = !opening;
  $(`${panel.id}-open`).setAttribute("aria-expanded", String(opening));
  if (opening) panel.querySelector("textarea, button, input:checked")?.focus();
  else giveBack();
}

/** Acts when Ctrl, Alt and Shift were pressed and released together. */
export function onChord(act) {
  let armed = false;
  const held = (event) => event.ctrlKey && event.altKey && event.shiftKey;
  addEventListener("keydown", (event) => (armed = MODIFIERS.includes(event.key) && (armed || held(event))), true);
  addEventListener("keyup", (event) => {
    if (!armed || event.ctrlKey || event.altKey || event.shiftKey) return;
    armed = false;
    // After noVNC has passed the release on to the guest.
    setTimeout(act);
  }, true);
}

function arrows(event) {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  const tools = [...$("bar").querySelectorAll("a, button")].filter((tool) => tool.offsetParent);
  const now = tools.indexOf(document.activeElement);
  if (now < 0) return;
  event.preventDefault();
  tools[(now + step + tools.length) % tools.length].focus();
}

/** Wires bar, handle and panels. `focusGuest()` gives the keyboard back to the guest; `onWay()` hears that somebody came by the chord. */
export function setUpBar(focusGuest, onWay) {
  giveBack = focusGuest;
  $("handle").addEventListener("click", () => {
    showBar();
    $("home").focus();
  });
  $("handle").addEventListener("pointerenter", (event) => event.pointerType === "mouse" && showBar());
  $("bar").addEventListener("keydown", arrows);
  onChord(() => {
    onWay();
    showBar();
    $("home").focus();
  });
  for (const panel of panels()) $(`${panel.id}-open`).addEventListener("click", () => toggle(panel));
  for (const place of [$("bar"), ...panels()]) {
    place.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      closePanels();
      giveBack();
      away();
    });
  }
  $("screen").addEventListener("pointerdown", () => {
    // What lies under the bar belongs to the guest: it comes only when asked for.
    if (panels().some((panel) => !panel.hidden)) closePanels();
  }, true);
  showBar();
}
