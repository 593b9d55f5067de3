// One stream of server-sent events after another, while the page can be seen.
//
// EventSource reconnects by itself after a lost connection, but gives up for good when it is
// answered with anything but a stream (a 503 while the server starts, a 404, a 401): then it is asked
// for again here, a little later each time. A hidden page needs no stream: a browser has few
// connections to one server.
import { waitBefore } from "./retry.js";

/** Keeps a stream open at `address`; `hears` says what to do at each event's name. `refused()` hears of an answer that was none. */
export function stream(address, hears, { up = () => null, down = () => null, refused = () => null } = {}) {
  let source = null;
  let attempt = 0;
  let again;
  let over = false;

  const stop = () => {
    clearTimeout(again);
    source?.close();
    source = null;
  };
  const open = () => {
    stop();
    const own = new EventSource(address);
    source = own;
    own.addEventListener("open", () => {
      attempt = 0;
      up();
    });
    for (const [name, act] of Object.entries(hears)) own.addEventListener(name, act);
    own.addEventListener("error", async () => {
      down();
      if (own.readyState !== EventSource.CLOSED) return;
      await refused();
      if (source !== own) return;
      again = setTimeout(open, waitBefore(attempt));
      attempt += 1;
    });
  };
  const look = () => {
    const seen = document.visibilityState === "visible";
    if (seen && !source && !over) open();
    else if (!seen) stop();
  };

  document.addEventListener("visibilitychange", look);
  look();
  return {
    /** Opens it anew: it begins with what is now. */
    renew() {
      if (source) open();
    },
    close() {
      over = true;
      document.removeEventListener("visibilitychange", look);
      stop();
    },
  };
}
