// News from the server (server-sent events): the machine's state, and the end of the session.
//
// `onDown(true)` only after a moment, so that a quick reconnect does not flicker.
import { stream } from "./stream.js";

const PATIENCE_MS = 1500;

/** Listens, while the page can be seen, until `close()` of what it returns is called. */
export function listen({ onVm, onMe = () => null, onDown = () => null, onUp = () => null, onRefused = () => null }) {
  let grace;
  const calm = () => {
    clearTimeout(grace);
    grace = undefined;
    onDown(false);
  };
  const news = stream("/events", { vm: (event) => onVm(JSON.parse(event.data)), me: onMe }, {
    up() {
      calm();
      onUp();
    },
    down: () => (grace ??= setTimeout(() => onDown(true), PATIENCE_MS)),
    refused: onRefused,
  });
  return {
    close() {
      news.close();
      calm();
    },
  };
}
