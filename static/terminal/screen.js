// The terminal itself: xterm.js in the whole window, in the colours of the page's theme.
import { FitAddon } from "@xterm/addon-fit";
import { Terminal } from "@xterm/xterm";
import { $ } from "../shared/dom.js";
import { withControl } from "./keys.js";

const SCROLLBACK_LINES = 10000;
const LIGHT = {
  background: "#ffffff", foreground: "#182136", cursor: "#3a4bd3", cursorAccent: "#ffffff", selectionBackground: "#c3cbff",
  black: "#182136", red: "#ad1f1a", green: "#0b6b43", yellow: "#7a4d00", blue: "#2c3ab0", magenta: "#8a2a8a", cyan: "#0b6470", white: "#515d78",
  brightBlack: "#515d78", brightRed: "#c22a24", brightGreen: "#0f7d4f", brightYellow: "#8a5800", brightBlue: "#3a4bd3", brightMagenta: "#a03aa0", brightCyan: "#0f7482", brightWhite: "#182136",
};
const DARK = {
  background: "#0a0d15", foreground: "#e9edf7", cursor: "#94a6ff", cursorAccent: "#0c1231", selectionBackground: "#3a4a7a",
  black: "#2c3853", red: "#ff9f97", green: "#66d9a6", yellow: "#f3c56d", blue: "#94a6ff", magenta: "#e2a3e8", cyan: "#7fd6e0", white: "#c9d2ea",
  brightBlack: "#8c98b4", brightRed: "#ffb9b3", brightGreen: "#8be8bf", brightYellow: "#ffdb94", brightBlue: "#b3c0ff", brightMagenta: "#f0c2f5", brightCyan: "#a5e8ef", brightWhite: "#ffffff",
};

const root = document.documentElement;
const colours = () => (root.dataset.theme === "dark" ? DARK : LIGHT);

/** Opens the terminal; `onTyped(bytes)` gets what is to be sent. */
export function openScreen(onTyped) {
  const term = new Terminal({
    scrollback: SCROLLBACK_LINES, theme: colours(), fontSize: 15, minimumContrastRatio: 4.5, cursorBlink: false, screenReaderMode: false,
    fontFamily: 'ui-monospace, "SF Mono", "Cascadia Mono", "DejaVu Sans Mono", monospace',
  });
  const fit = new FitAddon();
  term.loadAddon(fit);
  term.open($("terminal"));
  new ResizeObserver(() => fit.fit()).observe($("terminal"));
  new MutationObserver(() => (term.options.theme = colours())).observe(root, { attributeFilter: ["data-theme"] });

  // While what was kept is drawn again, its questions to the terminal must not be answered again: the
  // answers would be typed into the guest. Nor may each of two open terminals answer: who has the focus does.
  let live = false;
  const encoder = new TextEncoder();
  term.onData((text) => live && document.hasFocus() && onTyped(encoder.encode(withControl(text))));
  term.onBinary((text) => live && onTyped(Uint8Array.from(text, (character) => character.charCodeAt(0))));

  return {
    term,
    /** A new connection: everything comes again. */
    restart() {
      live = false;
      term.reset();
    },
    /** What was kept has all come. */
    goLive() {
      term.write("", () => (live = true));
    },
    /** True when the guest has written nothing one could see. */
    isEmpty() {
      const { buffer } = term;
      return buffer.active.length <= term.rows && ![...Array(buffer.active.length).keys()].some((y) => buffer.active.getLine(y)?.translateToString(true));
    },
  };
}
