// News from the server (server-sent events): the machine's state, and the end of the session.
//
// EventSource reconnects by itself after a lost connection, but gives up for good when it is
// answered with anything but a stream (a 503 while the server starts, a 401): then we wait a
// little longer each time and ask again ourselves. `onDown(true)` only after a moment, so that a
// quick reconnect does not flicker.

const PATIENCE_MS = 1500;
const LONGEST_WAIT_MS = 15000;

/** Listens until `close()` of what it returns is called. */
export function listen({ onVm, onMe, onDown, onRefused }) {
  let source;
  let wait = 1000;
  let grace;
  let again;
  let over = false;

  const down = () => {
    grace ??= setTimeout(() => onDown(true), PATIENCE_MS);
  };
  const up = () => {
    clearTimeout(grace);
    grace = undefined;
    wait = 1000;
    onDown(false);
  };
  const open = () => {
    source = new EventSource("/events");
    source.addEventListener("open", up);
    source.addEventListener("vm", (event) => onVm(JSON.parse(event.data)));
    source.addEventListener("me", onMe);
    source.addEventListener("error", async () => {
      down();
      if (source.readyState !== EventSource.CLOSED) return;
      await onRefused();
      if (over) return;
      again = setTimeout(open, wait);
      wait = Math.min(wait * 2, LONGEST_WAIT_MS);
    });
  };

  open();
  return {
    close() {
      over = true;
      clearTimeout(grace);
      clearTimeout(again);
      source.close();
      onDown(false);
    },
  };
}
