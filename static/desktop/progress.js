// What is being done to the machine, in words that a phone has room for too, and how one gets out of it by keyboard.
import { $, memory } from "../shared/dom.js";

const WAY_MS = 8000;
/** Whoever has been told so often knows. */
const TELLINGS = 5;

/** How a restart is told while it takes. */
export const RESTARTING = { reset: "Restarting…", "power-cycle": "Switching it off and on…" };

let told = false;

/** Shows what is being done until it is over, which is "". */
export function doing(text) {
  $("doing").hidden = !text;
  $("doing-text").textContent = text;
}

/** Says for a while, when the first connection is there, how to get out: all keys belong to the guest. */
export function tellTheWay() {
  const before = Number(memory.get("way")) || 0;
  if (told || before >= TELLINGS || !matchMedia("(any-pointer: fine)").matches) return;
  told = true;
  memory.set("way", before + 1);
  $("way").hidden = false;
  setTimeout(() => ($("way").hidden = true), WAY_MS);
}

/** The way out was found. */
export function wayFound() {
  $("way").hidden = true;
  memory.set("way", TELLINGS);
}
