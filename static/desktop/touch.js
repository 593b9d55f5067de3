// The keyboard of a phone: it appears only for a text field and often tells no keys, just what the
// text has become. So a field out of sight is kept filled, and what changes in it is typed.
import { $ } from "../shared/dom.js";
import { NAMED, sendCharacter } from "./keys.js";

// Something to delete: Backspace in an empty field changes nothing and would not be noticed.
const PADDING = " ".repeat(40);

/** Wires the button and the field; the button shows where there is a touch screen. */
export function setUpTouchKeys(rfb) {
  const field = $("touch-keys");
  const button = $("touch-open");
  let before = PADDING;

  const refill = () => {
    field.value = before = PADDING;
    field.setSelectionRange(PADDING.length, PADDING.length);
  };
  const pressed = (on) => button.setAttribute("aria-pressed", String(on));

  button.hidden = !(navigator.maxTouchPoints > 0 || matchMedia("(pointer: coarse)").matches);
  // Not on click: by then the field has lost the focus and every click would open it again.
  button.addEventListener("pointerdown", (event) => event.preventDefault());
  button.addEventListener("click", () => (document.activeElement === field ? field.blur() : field.focus()));
  field.addEventListener("focus", () => {
    refill();
    pressed(true);
  });
  field.addEventListener("blur", () => pressed(false));
  field.addEventListener("keydown", (event) => {
    if (!rfb() || !NAMED[event.key] || event.key === "Backspace" || ["Control", "Alt"].includes(event.key)) return;
    event.preventDefault();
    rfb().sendKey(NAMED[event.key], event.code || null);
  });
  field.addEventListener("input", (event) => {
    if (!rfb()) return;
    const after = field.value;
    let same = 0;
    while (same < before.length && before[same] === after[same]) same += 1;
    for (let i = same; i < before.length; i += 1) rfb().sendKey(NAMED.Backspace, "Backspace");
    for (const character of after.slice(same)) sendCharacter(rfb(), character, $("layout").value);
    before = after;
    // A word being composed must not be touched; it is short, so it can wait.
    if (!event.isComposing && (after.length < 8 || after.length > 200)) refill();
  });
}
