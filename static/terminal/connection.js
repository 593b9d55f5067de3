// One websocket after another to the guest's serial console.
//
// Bytes come and go as they are. The server first sends what it has kept, then one empty frame: what
// follows is live. Close codes are those of the desktop page: 1000 the machine has stopped, 1008 we
// are no longer allowed, anything else is a lost connection and is tried again.
import { STARTS_AGAIN, waitBefore } from "../shared/retry.js";

/** More than this unsent, and a paste is refused: the guest takes what is typed slowly. */
const UNSENT_MAX = 1 << 20;

/** Keeps a connection to what `url()` says; the callbacks tell the page. */
export function keepConnected({ url, onConnecting, onConnected, onBytes, onLive, onLost, onEnded, stillThere }) {
  let socket = null;
  let attempt = 0;
  let timer;
  let over = false;

  function end(why) {
    over = true;
    onEnded(why);
  }

  async function closed({ code, reason }, wasConnected) {
    socket = null;
    if (over) return;
    if (code === 1000) return end("stopped");
    if (code === 1008) return end("forbidden");
    if (!wasConnected) {
      const answer = await stillThere();
      if (over) return;
      if (answer !== "there") return end(answer);
    }
    const wait = waitBefore(attempt);
    attempt += 1;
    onLost(Date.now() + wait, reason === STARTS_AGAIN);
    timer = setTimeout(open, wait);
  }

  function open() {
    clearTimeout(timer);
    timer = undefined;
    onConnecting(attempt);
    const own = new WebSocket(url());
    own.binaryType = "arraybuffer";
    let wasConnected = false;
    own.addEventListener("open", () => {
      wasConnected = true;
      attempt = 0;
      socket = own;
      onConnected();
    });
    own.addEventListener("message", ({ data }) => (data.byteLength === 0 ? onLive() : onBytes(new Uint8Array(data))));
    own.addEventListener("close", (event) => closed(event, wasConnected));
  }

  const now = () => timer !== undefined && !over && open();
  addEventListener("online", now);
  document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && now());
  addEventListener("pagehide", () => {
    over = true;
    socket?.close();
  });
  addEventListener("pageshow", (event) => event.persisted && location.reload());
  open();
  return {
    retryNow: now,
    /** Sends what was typed; false where too much waits. What is typed while there is no connection is lost, as the page says then. */
    send(bytes) {
      if (socket?.bufferedAmount > UNSENT_MAX) return false;
      socket?.send(bytes);
      return true;
    },
  };
}
