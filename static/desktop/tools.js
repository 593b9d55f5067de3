// What each tool on the bar does to the guest or to the window.
import { $, copies, make, memory } from "../shared/dom.js";
import { closePanels } from "./bar.js";
import { CHORDS, chordName, sendChord, sendText } from "./keys.js";
import { layouts, strokesOf } from "./layouts.js";

const NOTE = $("text-note").textContent;

function press(button, on) {
  button.setAttribute("aria-pressed", String(on));
}

function setUpWindow(focusGuest) {
  const root = document.documentElement;
  $("full").hidden = !root.requestFullscreen;
  $("full").addEventListener("click", async () => {
    if (document.fullscreenElement) await document.exitFullscreen();
    else await root.requestFullscreen().catch(() => null);
    focusGuest();
  });
  document.addEventListener("fullscreenchange", () => {
    press($("full"), Boolean(document.fullscreenElement));
    // Where the browser can, Escape and Alt-Tab then go to the guest too.
    if (document.fullscreenElement) navigator.keyboard?.lock?.().catch(() => null);
    else navigator.keyboard?.unlock?.();
  });
}

function setUpScreenshot(rfb) {
  $("shot").addEventListener("click", () => {
    rfb()?.toBlob((png) => {
      const url = URL.createObjectURL(png);
      const stamp = new Date().toISOString().slice(0, 19).replaceAll(":", "-");
      make("a", { href: url, download: `desktop-${stamp}.png` }).click();
      setTimeout(() => URL.revokeObjectURL(url), 10000);
    }, "image/png");
  });
}

function setUpKeys(rfb, focusGuest) {
  for (const chord of CHORDS) {
    const button = make("button", { type: "button", class: "btn" }, chordName(chord));
    button.addEventListener("click", () => {
      if (!rfb()) return;
      sendChord(rfb(), chord);
      closePanels();
      focusGuest();
    });
    $("chords").append(button);
  }
}

function setUpText(rfb) {
  let typing = null;
  const layout = $("layout");
  layout.append(...layouts.map(([id, name]) => make("option", { value: id }, name)));
  layout.value = layouts.some(([id]) => id === memory.get("layout")) ? memory.get("layout") : "us";
  const look = () => {
    const foreign = [...$("outgoing").value.replaceAll("\r", "").normalize("NFC")].some((character) => !strokesOf(layout.value, character));
    $("text-note").textContent = foreign ? "Letters this keyboard does not have may not arrive when typed." : NOTE;
  };
  layout.addEventListener("change", () => {
    memory.set("layout", layout.value);
    look();
  });
  $("type").addEventListener("click", async () => {
    if (typing) return typing.abort();
    if (!rfb() || !$("outgoing").value) return $("outgoing").focus();
    typing = new AbortController();
    $("type").textContent = "Stop typing";
    const told = (done, all) => ($("text-note").textContent = `Typed ${done} of ${all}.`);
    const done = await sendText(rfb, $("outgoing").value, layout.value, typing.signal, told);
    if (!done && !typing.signal.aborted) $("text-note").textContent += " The rest was not: the connection was lost.";
    typing = null;
    $("type").textContent = "Type this text";
  });
  $("paste").addEventListener("click", () => {
    if (!rfb()) return;
    rfb().clipboardPasteFrom($("outgoing").value);
    $("text-note").textContent = "Sent to its clipboard. Nothing to paste there? Then it has no agent for that: type the text instead.";
  });
  $("outgoing").addEventListener("input", look);
  copies($("copy"), () => $("incoming").value, $("incoming"));
}

/** Text the guest has copied. */
export function received(text) {
  $("incoming").value = text;
  $("copy").disabled = text === "";
}

/** Wires every tool. `rfb()` is the connection of the moment or null. */
export function setUpTools(rfb, focusGuest) {
  setUpWindow(focusGuest);
  setUpScreenshot(rfb);
  setUpKeys(rfb, focusGuest);
  setUpText(rfb);
}
