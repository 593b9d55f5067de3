// Text and key combinations as X11 keysyms, the RFB protocol's keys (RFC 6143, section 7.5.4).
//
// What is typed is keys, not characters: which ones depends on the layout the guest has been told of
// (layouts.js). Characters it lacks are sent by their Unicode keysym, which a guest may or may not
// understand.
import { strokesOf } from "./layouts.js";

const MODIFIERS = { ShiftLeft: 0xffe1, AltRight: 0xfe03 };
// An emulated PS/2 keyboard holds 16 bytes; faster typing loses keys in boot menus.
const PACE_MS = 30;

/** The keys that are not characters, by the browser's name for them. */
export const NAMED = {
  Backspace: 0xff08, Tab: 0xff09, Enter: 0xff0d, Escape: 0xff1b, Delete: 0xffff, Home: 0xff50, ArrowLeft: 0xff51, ArrowUp: 0xff52,
  ArrowRight: 0xff53, ArrowDown: 0xff54, PageUp: 0xff55, PageDown: 0xff56, End: 0xff57, Insert: 0xff63, Control: 0xffe3, Alt: 0xffe9, Super: 0xffeb,
  F1: 0xffbe, F2: 0xffbf, F3: 0xffc0, F4: 0xffc1, F7: 0xffc4, F12: 0xffc9,
};

/** What a browser or the computer under it keeps for itself. */
export const CHORDS = ["Control+Alt+Delete", "Escape", "Tab", "Super", "Alt+Tab", "Alt+F2", "Alt+F4", "Control+Alt+F1", "Control+Alt+F2", "Control+Alt+F7", "F12"];

/** A combination as it is written on keys. */
export function chordName(chord) {
  return chord.replace("Control", "Ctrl").replace("Delete", "Del").replace("Escape", "Esc").replaceAll("+", "-");
}

// The physical keys (KeyboardEvent.code) of the modifiers; other names are codes already.
const CODES = { Control: "ControlLeft", Alt: "AltLeft", Super: "MetaLeft" };

/** Presses the keys of `chord` in order and lets go in reverse. */
export function sendChord(rfb, chord) {
  const names = chord.split("+");
  for (const name of names) rfb.sendKey(NAMED[name], CODES[name] ?? name, true);
  for (const name of names.reverse()) rfb.sendKey(NAMED[name], CODES[name] ?? name, false);
}

/** A character's keysym: Latin-1 is its own, line ends and tabs are keys, the rest is Unicode. */
export function keysymOf(character) {
  if (character === "\n") return NAMED.Enter;
  if (character === "\t") return NAMED.Tab;
  const code = character.codePointAt(0);
  return (code >= 0x20 && code <= 0x7e) || (code >= 0xa0 && code <= 0xff) ? code : 0x01000000 | code;
}

/** Types one character on a layout. */
export function sendCharacter(rfb, character, layout) {
  const strokes = strokesOf(layout, character);
  if (!strokes) return rfb.sendKey(keysymOf(character), null);
  for (const { character: key, code, modifier } of strokes) {
    if (modifier) rfb.sendKey(MODIFIERS[modifier], modifier, true);
    rfb.sendKey(keysymOf(key), code);
    if (modifier) rfb.sendKey(MODIFIERS[modifier], modifier, false);
  }
}

/**
 * Types a text at a pace a guest can follow; tells `progress(done, all)`. Stops when `signal` says so or `rfb()` is another connection, or one that
 * only looks: resolves to false then.
 */
export async function sendText(rfb, text, layout, signal, progress) {
  const session = rfb();
  const characters = [...text.replace(/\r\n?/g, "\n").normalize("NFC")];
  for (const [index, character] of characters.entries()) {
    if (signal.aborted || rfb() !== session || session.viewOnly) return false;
    sendCharacter(session, character, layout);
    progress(index + 1, characters.length);
    await new Promise((later) => setTimeout(later, PACE_MS));
  }
  return true;
}
