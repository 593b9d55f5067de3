// What lies over the screen while there is none, with its last frame below.
import { $ } from "../shared/dom.js";
import * as veil from "../shared/veil.js";

export { cycling, stateNow } from "../shared/veil.js";

/** A (new) connection is being made. */
export function connecting(attempt) {
  veil.connecting(attempt, "screen", "desktop");
}

/** The screen is there. */
export function connected() {
  veil.connected();
  $("frozen").hidden = true;
}

/** The connection is gone: keeps the last frame, dimmed. */
export function lost(canvas, nextTry, startsAgain) {
  veil.lost(nextTry, startsAgain, "screen", "Your desktop goes on without you.");
  if (!canvas?.width) return;
  const frozen = $("frozen");
  frozen.width = canvas.width;
  frozen.height = canvas.height;
  frozen.getContext("2d").drawImage(canvas, 0, 0);
  frozen.hidden = false;
}

/** There is nothing more to wait for. */
export function ended(title, text) {
  $("blank").hidden = true;
  veil.ended(title, text);
}
