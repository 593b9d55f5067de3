// How the guest's screen is shown: size, quality, and what the connection does. Size and quality are remembered.
//
// noVNC asks for a quality in every list of encodings, and QEMU then sends pictures that are not exact. Where every pixel is to be as it is,
// those entries are taken out of the list.
import RFB from "@novnc/novnc";
import { $, make, memory } from "../shared/dom.js";

const LOOK_MS = 2000;
/** noVNC's quality and compression levels; null is exact. */
const QUALITIES = { best: [null, 2], good: [6, 2], low: [1, 9] };
const SIZES = ["fit", "follow", "actual"];
const isQuality = (encoding) => encoding >= -32 && encoding <= -23;

let bytes = 0;

const kept = (key, known) => (known.includes(memory.get(key)) ? memory.get(key) : known[0]);
const size = () => kept("size", SIZES);
const quality = () => kept("quality", Object.keys(QUALITIES));

const sendEncodings = RFB.messages.clientEncodings;
RFB.messages.clientEncodings = (socket, encodings) => sendEncodings(socket, QUALITIES[quality()][0] === null ? encodings.filter((one) => !isQuality(one)) : encodings);

/** So many bytes came from the guest. */
export function passed(count) {
  bytes += count;
}

/** Sets a connection up as was chosen. */
export function apply(session) {
  const [level, compression] = QUALITIES[quality()];
  session.resizeSession = size() === "follow";
  session.scaleViewport = size() !== "actual";
  $("frozen").classList.toggle("object-none", size() === "actual");
  session.compressionLevel = compression;
  // Another number makes noVNC send the list; without a quality in it any number will do.
  session.qualityLevel = level ?? 9;
}

/** How long the server takes to answer, in milliseconds, or nothing. */
async function latency() {
  const began = performance.now();
  const answer = await fetch("/healthz", { method: "HEAD", cache: "no-store" }).catch(() => null);
  return answer?.ok ? Math.max(1, Math.round(performance.now() - began)) : null;
}

const rate = (bits) => (bits < 1e6 ? `${Math.round(bits / 1e3)} kbit/s` : `${(bits / 1e6).toFixed(1)} Mbit/s`);
const fact = (name, value) => make("div", {}, make("dt", { class: "hint" }, name), make("dd", { class: "font-semibold" }, value));

function setUpStatistics(rfb) {
  let before = null;
  const look = async () => {
    if ($("view").hidden || document.visibilityState !== "visible") return void (before = null);
    const ms = await latency();
    const now = { at: performance.now(), bytes };
    const bits = before && ((now.bytes - before.bytes) * 8000) / (now.at - before.at);
    before = now;
    const canvas = document.querySelector("#screen canvas");
    const there = rfb() && canvas;
    $("statistics").replaceChildren(
      fact("Server answers in", ms === null ? "no answer" : `${ms} ms`),
      fact("Data rate", bits === null ? "…" : rate(bits)),
      fact("Desktop", there ? `${canvas.width} × ${canvas.height}` : "not connected"),
    );
  };
  setInterval(look, LOOK_MS);
  $("view-open").addEventListener("click", look);
}

/** Wires the panel. `rfb()` is the connection of the moment or null. */
export function setUpView(rfb) {
  for (const choice of $("view").querySelectorAll('[name="size"]')) {
    choice.checked = choice.value === size();
    choice.addEventListener("change", () => {
      memory.set("size", choice.value);
      if (rfb()) apply(rfb());
    });
  }
  $("quality").value = quality();
  $("quality").addEventListener("change", () => {
    memory.set("quality", $("quality").value);
    if (rfb()) apply(rfb());
  });
  setUpStatistics(rfb);
}
