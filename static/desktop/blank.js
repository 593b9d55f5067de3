// Says so when the guest has drawn nothing for a while: black is what a machine shows while it
// boots, sleeps or hangs, and nobody should wonder whether the page is broken.
import { $ } from "../shared/dom.js";

const LOOK_MS = 2000;
const PATIENCE_LOOKS = 3;
const ASLEEP_LOOKS = 10;
const NEARLY_BLACK = 10;
/** As many points of the small picture may be lit by a lonely cursor. */
const CURSOR = 4;
/** Where QEMU writes "Display output is not active." in the middle of a black picture: half its width, and above and below the middle. */
const MESSAGE = { half: 184, above: 20, below: 12 };

const WORDS = {
  new: "Its screen is empty so far: the system is starting, and has drawn nothing yet. Its terminal may say more.",
  off: "The guest's screen is switched off: the system is starting, or changes its screen. Its terminal may say more.",
  black: "The guest's screen is black. It may be asleep, or still starting: press a key or move the pointer.",
};

let timer;

function lit(small) {
  const pixels = small.getImageData(0, 0, small.canvas.width, small.canvas.height).data;
  let count = 0;
  for (let at = 0; at < pixels.length; at += 4) count += Math.max(pixels[at], pixels[at + 1], pixels[at + 2]) > NEARLY_BLACK;
  return count;
}

/** What the guest shows: nothing ("black"), nothing but QEMU's word that it is off ("off"), or something (""). */
function look(canvas, small) {
  if (!canvas.width || !canvas.height) return "black";
  const { width, height } = small.canvas;
  const [across, down] = [width / canvas.width, height / canvas.height];
  small.drawImage(canvas, 0, 0, width, height);
  if (lit(small) <= CURSOR) return "black";
  const [half, above, below] = [Math.ceil(MESSAGE.half * across), Math.ceil(MESSAGE.above * down), Math.ceil(MESSAGE.below * down)];
  small.fillRect(width / 2 - half, height / 2 - above, 2 * half, above + below);
  return lit(small) <= CURSOR ? "off" : "";
}

/** Watches the canvas until `unwatch`. */
export function watch(canvas) {
  unwatch();
  const own = document.createElement("canvas");
  Object.assign(own, { width: 160, height: 100 });
  const small = own.getContext("2d", { willReadFrequently: true });
  small.imageSmoothingQuality = "medium";
  let empty = 0;
  let drew = false;
  timer = setInterval(() => {
    const seen = look(canvas, small);
    empty = seen ? empty + 1 : 0;
    drew ||= !seen;
    const blank = empty >= (drew && seen === "black" ? ASLEEP_LOOKS : PATIENCE_LOOKS);
    const words = WORDS[!drew ? "new" : seen];
    if (blank && $("blank").textContent !== words) $("blank").textContent = words;
    $("blank").hidden = !blank;
  }, LOOK_MS);
}

/** Stops watching. */
export function unwatch() {
  clearInterval(timer);
  $("blank").hidden = true;
}
