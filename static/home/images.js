// Images and their way in: what there is, what is on its way, and what would be refused before it is sent.
//
// Uploads go by tus: after a lost connection or a reload they go on where they stopped. A browser keeps no hold on a file over a reload, so it
// has to be chosen again; the address of what has come so far is remembered here.
import { Upload } from "tus-js-client";
import { call } from "../shared/api.js";
import { $, make } from "../shared/dom.js";
import { ago, bytes, exactly, span } from "../shared/words.js";

const SMALLEST = 10_000_000;
const FORMATS = { iso: "iso", qcow2: "qcow2", raw: "raw", img: "raw" };

let images = [];
let left = Infinity;
let upload = null;
let speed = null;
let told = () => {};

const formatOf = (name) => FORMATS[name.split(".").pop().toLowerCase()];

/** Why the server would refuse this file, or "". Only its beginning is read. */
async function fault(file) {
  const format = formatOf(file.name);
  if (!format) return "Choose an .iso file, or a disk image that ends in .qcow2, .raw or .img.";
  if (file.size > left) return `This file has ${bytes(file.size)}, and your quota has ${bytes(left)} left. Remove an image first.`;
  if (format !== "qcow2" && file.size < SMALLEST) return `This file has only ${bytes(file.size)}; a bootable image has at least 10 MB. Was the download complete?`;
  const head = new TextDecoder("latin1").decode(await file.slice(0, 65536).arrayBuffer());
  if (format === "iso" && head.slice(32769, 32774) !== "CD001") return "This is not a CD image. Choose the distribution's .iso file itself, not an archive of it.";
  if (format === "qcow2" && !head.startsWith("QFI\xfb")) return "This is not a qcow2 disk image, although its name says so.";
  return "";
}

function say(words) {
  $("upload-words").textContent = words;
}

function problemOf(error) {
  try {
    return JSON.parse(error.originalResponse.getBody()).detail;
  } catch {
    return "The server cannot be reached. Resume when you are connected again.";
  }
}

function progress(sent, all) {
  const now = performance.now();
  speed ??= { at: now, sent };
  const seconds = (now - speed.at) / 1000;
  const rate = seconds > 0.5 ? (sent - speed.sent) / seconds : 0;
  const rest = rate > 0 ? `, ${bytes(rate)}/s, ${span(((all - sent) / rate) * 1000)} left` : "";
  $("upload-bar").value = sent / all;
  say(`${bytes(sent)} of ${bytes(all)}${rest}`);
}

function paused(is) {
  $("upload-pause").textContent = is ? "Resume" : "Pause";
  $("upload-pause").dataset.paused = is ? "yes" : "";
}

function over() {
  upload = null;
  $("upload").hidden = true;
  $("image-choose").hidden = false;
}

async function begin(file) {
  $("image-error").textContent = "";
  const why = await fault(file);
  if (why) {
    $("image-error").textContent = why;
    return;
  }
  const metadata = { filename: file.name, format: formatOf(file.name) };
  speed = null;
  upload = new Upload(file, {
    endpoint: "/uploads/",
    metadata,
    retryDelays: [0, 1000, 3000, 5000, 10000],
    removeFingerprintOnSuccess: true,
    onProgress: progress,
    onError: (error) => {
      $("image-error").textContent = problemOf(error);
      if (error.originalResponse?.getStatus() >= 400 && error.originalResponse.getStatus() < 500) over();
      else paused(true);
    },
    onSuccess: async () => {
      over();
      await loadImages();
      say("");
      $("image-done").textContent = `${file.name} is there. Start your desktop with it.`;
      told();
    },
  });
  $("image-done").textContent = "";
  $("upload-name").textContent = file.name;
  $("upload-bar").value = 0;
  paused(false);
  say("Looking how far it is…");
  $("upload").hidden = false;
  $("image-choose").hidden = true;
  const [before] = await upload.findPreviousUploads();
  if (before) upload.resumeFromPreviousUpload(before);
  upload.start();
}

async function pause() {
  if (!upload) return;
  if ($("upload-pause").dataset.paused) {
    $("image-error").textContent = "";
    speed = null;
    paused(false);
    upload.start();
  } else {
    await upload.abort();
    paused(true);
    say("Paused. You may close this page and choose the same file again later.");
  }
}

async function cancel() {
  const was = upload;
  over();
  say("");
  // Whether or not the server hears it: it throws half uploads away after a while.
  await was?.abort(true).catch(() => null);
}

async function remove(image, button) {
  if (button.dataset.sure !== "yes") {
    button.dataset.sure = "yes";
    button.textContent = "Remove for good?";
    button.addEventListener("blur", () => Object.assign(button, { textContent: "Remove" }) && (button.dataset.sure = ""), { once: true });
    return;
  }
  try {
    await call("DELETE", `/isos/${encodeURIComponent(image.name)}`);
    $("image-error").textContent = "";
    await loadImages();
    told();
    $("images-title").focus();
  } catch (problem) {
    $("image-error").textContent = problem.message;
  }
}

function line(image) {
  const words = [bytes(image.size), image.shared ? "for everybody" : ago(Date.now() - Date.parse(image.modified_at)), image.in_use && "in use"];
  const row = make("li", { class: "py-3 flex flex-wrap gap-x-4 gap-y-1 items-center" });
  const name = make("span", { class: "font-semibold wrap-anywhere" }, image.name);
  row.append(make("span", { class: "mr-auto min-w-0" }, name, make("span", { class: "hint block", title: exactly(image.modified_at) }, words.filter(Boolean).join(", "))));
  if (!image.shared) {
    const button = make("button", { type: "button", class: "btn", "aria-label": `Remove ${image.name}` }, "Remove");
    button.addEventListener("click", () => remove(image, button));
    row.append(button);
  }
  return row;
}

/** Asks what there is and shows it. */
export async function loadImages() {
  const answer = await call("GET", "/isos");
  images = answer.isos;
  left = answer.quota.left;
  $("image-none").hidden = images.length > 0;
  $("image-list").replaceChildren(...images.map(line));
  $("image-quota").textContent = `${bytes(answer.quota.used)} of your ${bytes(answer.quota.limit)} are used.`;
}

/** What may be started, for the picker. */
export function imageNames() {
  return images.map((image) => ({ name: image.name, words: `${image.name}, ${bytes(image.size)}` }));
}

/** Wires the list; `changed` is told when an image came or went. */
export function setUpImages(changed) {
  told = changed;
  $("image-file").addEventListener("change", () => {
    const [file] = $("image-file").files;
    $("image-file").value = "";
    if (file) begin(file);
  });
  $("upload-pause").addEventListener("click", pause);
  $("upload-cancel").addEventListener("click", cancel);
  const drop = $("image-choose");
  for (const kind of ["dragover", "drop", "dragleave"]) {
    drop.addEventListener(kind, (event) => {
      event.preventDefault();
      drop.dataset.over = kind === "dragover" ? "yes" : "";
      const [file] = kind === "drop" ? event.dataTransfer.files : [];
      if (file) begin(file);
    });
  }
  addEventListener("beforeunload", (event) => upload && !$("upload-pause").dataset.paused && event.preventDefault());
}
