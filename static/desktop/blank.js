// Says so when the guest has drawn nothing for a while: black is what a machine shows while it
// boots, sleeps or hangs, and nobody should wonder whether the page is broken.
import { $ } from "../shared/dom.js";

const LOOK_MS = 2000;
const PATIENCE_LOOKS = 3;
const ASLEEP_LOOKS = 10;
const NEARLY_BLACK = 10;

let timer;

function isBlack(canvas, small) {
  if (!canvas.width || !canvas.height) return true;
  small.drawImage(canvas, 0, 0, small.canvas.width, small.canvas.height);
  const pixels = small.getImageData(0, 0, small.canvas.width, small.canvas.height).data;
  return pixels.every((value, index) => index % 4 === 3 || value <= NEARLY_BLACK);
}

/** Watches the canvas until `unwatch`. */
export function watch(canvas) {
  unwatch();
  const own = document.createElement("canvas");
  Object.assign(own, { width: 160, height: 100 });
  const small = own.getContext("2d", { willReadFrequently: true });
  small.imageSmoothingQuality = "medium";
  let black = 0;
  let drew = false;
  timer = setInterval(() => {
    black = isBlack(canvas, small) ? black + 1 : 0;
    drew ||= black === 0;
    const blank = black >= (drew ? ASLEEP_LOOKS : PATIENCE_LOOKS);
    const words = drew ? "The guest's screen is black. It may be asleep: press a key or move the pointer." : "Its screen is empty so far: the system is starting, and has drawn nothing yet. Its terminal may say more.";
    if (blank && $("blank").textContent !== words) $("blank").textContent = words;
    $("blank").hidden = !blank;
  }, LOOK_MS);
}

/** Stops watching. */
export function unwatch() {
  clearInterval(timer);
  $("blank").hidden = true;
}
