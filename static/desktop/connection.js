// One connection after another to the guest's screen.
//
// noVNC speaks RFB over a WebSocket that is opened here, because its close code decides what comes
// next: 1000 the machine has stopped, 1008 we are no longer allowed, anything else is a lost
// connection and is tried again, a little later each time. A refused handshake looks the same as a
// lost network (code 1006), so before each new try `stillThere` asks the API.
import RFB from "@novnc/novnc";
import { STARTS_AGAIN, waitBefore } from "../shared/retry.js";

/** Keeps `target` connected to what `url()` says. The callbacks tell the page; `prepare(rfb)` sets each RFB up, `onBytes` hears how many came. */
export function keepConnected({ target, url, prepare, onBytes, onConnecting, onConnected, onLost, onEnded, stillThere }) {
  let rfb = null;
  let canvas = null;
  let attempt = 0;
  let timer;
  let over = false;

  function end(why, code) {
    over = true;
    clearTimeout(timer);
    onEnded(why, code);
  }

  function lost(reason) {
    const wait = waitBefore(attempt);
    attempt += 1;
    onLost(canvas, Date.now() + wait, reason === STARTS_AGAIN);
    timer = setTimeout(open, wait);
  }

  async function closed({ code, reason }, byServer, wasConnected) {
    rfb = null;
    if (over) return;
    if (byServer && code === 1000) return end("stopped", code);
    if (byServer && code === 1008) return end("forbidden", code);
    if (!wasConnected) {
      const answer = await stillThere();
      if (over) return;
      if (answer !== "there") return end(answer, code);
    }
    lost(reason);
  }

  function open() {
    clearTimeout(timer);
    timer = undefined;
    onConnecting(attempt);
    const socket = new WebSocket(url());
    let closing = { code: 0, reason: "" };
    let byServer = true;
    let wasConnected = false;
    socket.addEventListener("close", (event) => (closing = event));
    socket.addEventListener("message", (event) => onBytes(event.data.byteLength ?? 0));
    // noVNC closes the socket itself when it does not understand the server; the echo of that is
    // a 1000 too, and must not pass for the end of the machine.
    const close = socket.close.bind(socket);
    socket.close = (...reason) => {
      byServer = false;
      close(...reason);
    };
    rfb = new RFB(target, socket, { shared: true });
    prepare(rfb);
    rfb.addEventListener("connect", () => {
      wasConnected = true;
      attempt = 0;
      canvas = target.querySelector("canvas");
      onConnected(rfb, canvas);
    });
    rfb.addEventListener("credentialsrequired", () => end("password", 0));
    rfb.addEventListener("disconnect", () => closed(closing, byServer, wasConnected));
  }

  const now = () => timer !== undefined && !over && open();
  addEventListener("online", now);
  document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && now());
  addEventListener("pagehide", () => rfb?.disconnect());
  open();
  return { retryNow: now, rfb: () => rfb };
}
