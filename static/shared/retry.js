// When to try a lost connection again, and when it is none.

/** What the server closes a console with when its machine is switched off and on (src/vm/restart.rs). */
export const STARTS_AGAIN = "the VM starts again";

const WAITS_MS = [500, 1000, 2000, 4000, 8000, 10000];

/** How long to wait before try number `attempt`; spread, so that a class does not return as one. */
export function waitBefore(attempt) {
  return WAITS_MS[Math.min(attempt, WAITS_MS.length - 1)] * (0.8 + Math.random() * 0.4);
}
