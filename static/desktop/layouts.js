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
    // Dead where it stands first; by AltGr it is not.
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

/** The accents as dead keys have them, by how Unicode puts them behind a letter. */
const ACCENTS = { "\u0300": "`", "\u0301": "´", "\u0302": "^", "\u0303": "~", "\u0308": "¨", "\u030a": "°" };

const made = new Map();

function make(id) {
  const layout = LAYOUTS[id] ?? LAYOUTS.us;
  const dead = new Map();
  const strokes = new Map([[" ", "Space"], ["\n", "Enter"], ["\t", "Tab"]].map(([character, code]) => [character, { character, code }]));
  for (const [rows, modifier] of [[layout.altgr, "AltRight"], [layout.shift, "ShiftLeft"], [layout.plain, null]]) {
    for (const [row, characters] of (rows ?? []).entries()) {
      for (const [place, character] of [...characters].entries()) {
        const isOther = layout.skip === character && modifier !== "AltRight";
        const stroke = { character, code: KEYS[row][place], modifier };
        if (isOther || layout.dead?.includes(character)) dead.set(character, stroke);
        if (character !== " " && !isOther) strokes.set(character, stroke);
      }
    }
  }
  return { strokes, dead };
}

/** The keys that write a character on a layout, one after the other: `[{character, code, modifier}, …]`; undefined where it has none. */
export function strokesOf(id, character) {
  if (!made.has(id)) made.set(id, make(id));
  const { strokes, dead } = made.get(id);
  const own = strokes.get(character);
  if (own) return dead.get(character) === own ? [own, strokes.get(" ")] : [own];
  // A letter with an accent is two: é is ´ and then e.
  const [letter, mark, ...more] = character.normalize("NFD");
  const [accent, base] = [dead.get(ACCENTS[mark]), strokes.get(letter)];
  return accent && base && more.length === 0 ? [accent, base] : undefined;
}
