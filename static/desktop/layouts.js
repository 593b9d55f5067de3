// Which keys write a character, on the keyboard the guest believes it has.
//
// A layout is three rows of characters for each row of keys: plain, with Shift, with AltGr; a space
// there means "nothing". A dead key waits for the next one: a space after it makes the accent itself.

const KEYS = [
  ["Backquote", ..."1234567890".split("").map((digit) => `Digit${digit}`), "Minus", "Equal"],
  [..."QWERTYUIOP".split("").map((letter) => `Key${letter}`), "BracketLeft", "BracketRight"],
  [..."ASDFGHJKL".split("").map((letter) => `Key${letter}`), "Semicolon", "Quote", "Backslash"],
  ["IntlBackslash", ..."ZXCVBNM".split("").map((letter) => `Key${letter}`), "Comma", "Period", "Slash"],
];

const LAYOUTS = {
  us: {
    name: "English (US)",
    plain: ["`1234567890-=", "qwertyuiop[]", "asdfghjkl;'\\", " zxcvbnm,./"],
    shift: ["~!@#$%^&*()_+", "QWERTYUIOP{}", 'ASDFGHJKL:"|', " ZXCVBNM<>?"],
  },
  gb: {
    name: "English (UK)",
    plain: ["`1234567890-=", "qwertyuiop[]", "asdfghjkl;'#", "\\zxcvbnm,./"],
    shift: ['¬!"£$%^&*()_+', "QWERTYUIOP{}", "ASDFGHJKL:@~", "|ZXCVBNM<>?"],
    altgr: ["    €        "],
  },
  de: {
    name: "German",
    plain: ["^1234567890ß´", "qwertzuiopü+", "asdfghjklöä#", "<yxcvbnm,.-"],
    shift: ['°!"§$%&/()=?`', "QWERTZUIOPÜ*", "ASDFGHJKLÖÄ'", ">YXCVBNM;:_"],
    altgr: ["  ²³   {[]}\\ ", "@ €        ~", "            ", "|      µ   "],
    dead: "^´`",
  },
  fr: {
    name: "French",
    plain: ["²&é\"'(-è_çà)=", "azertyuiop^$", "qsdfghjklmù*", "<wxcvbn,;:!"],
    shift: [" 1234567890°+", "AZERTYUIOP¨£", "QSDFGHJKLM%µ", ">WXCVBN?./§"],
    altgr: ["  ~#{[|`\\^@]}", "  €         "],
    dead: "¨",
    // Written by AltGr too, and not dead there.
    skip: "^",
  },
  es: {
    name: "Spanish",
    plain: ["º1234567890'¡", "qwertyuiop`+", "asdfghjklñ´ç", "<zxcvbnm,.-"],
    shift: ['ª!"·$%&/()=?¿', "QWERTYUIOP^*", "ASDFGHJKLÑ¨Ç", ">ZXCVBNM;:_"],
    altgr: ["\\|@#~ ¬      ", "  €       []", "          {}"],
    dead: "`^´¨",
  },
};

/** The layouts by name: `[["us", "English (US)"], …]`. */
export const layouts = Object.entries(LAYOUTS).map(([id, { name }]) => [id, name]);

const made = new Map();

function make(id) {
  const layout = LAYOUTS[id] ?? LAYOUTS.us;
  const strokes = new Map([[" ", { code: "Space" }], ["\n", { code: "Enter" }], ["\t", { code: "Tab" }]]);
  for (const [rows, modifier] of [[layout.altgr, "AltRight"], [layout.shift, "ShiftLeft"], [layout.plain, null]]) {
    for (const [row, characters] of (rows ?? []).entries()) {
      for (const [place, character] of [...characters].entries()) {
        if (character === " " || (layout.skip === character && modifier !== "AltRight")) continue;
        strokes.set(character, { code: KEYS[row][place], modifier, dead: layout.dead?.includes(character) ?? false });
      }
    }
  }
  return strokes;
}

/** How a character is written on a layout: `{code, modifier, dead}`, or undefined where it has none. */
export function strokeOf(id, character) {
  if (!made.has(id)) made.set(id, make(id));
  return made.get(id).get(character);
}
