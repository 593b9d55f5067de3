// Images and their way in: what there is, what is on its way, and what would be refused before it is sent.
//
// Uploads go by tus: after a lost connection or a reload they go on where they stopped. A browser keeps no hold on a file over a reload, so it
// has to be chosen again; the address of what has come so far is remembered here.
import { Upload, defaultOptions } from "tus-js-client";
import { call, refused } from "../shared/api.js";
import { $, make, sure } from "../shared/dom.js";
import { when } from "../shared/when.js";
import { bytes, exactly, span } from "../shared/words.js";

const SMALLEST = 10 << 20;
const WAIT_MS = 25_000;
const TUS = { "Tus-Resumable": "1.0.0" };
/** So many unfinished uploads are asked for, the newest. */
const MOST_UNFINISHED = 10;
const FORMATS = { iso: "iso", qcow2: "qcow2", raw: "raw", img: "raw" };

let images = [];
let left = Infinity;
let upload = null;
let speed = null;
/** An upload waits for the network or the server. */
let waits = false;
let later;
// Counts what was chosen, and who was here: what was waited for before that does not go on.
let turn = 0;
/** Whose page it is, by id. */
let owner = "";
/** Counts looks for what is unfinished. */
let looks = 0;
let told = () => {};

/** Whether an upload of before is this person's: administrators may see others' uploads, and throw them away. */
const isOwn = ({ metadata }) => !metadata?.owner || metadata.owner === owner;

const formatOf = (name) => FORMATS[name.split(".").pop().toLowerCase()];

/** Why the server would refuse this file, or "". Only its beginning is read. */
async function fault(file) {
  const format = formatOf(file.name);
  if (!format) return "Choose an .iso file, or a disk image that ends in .qcow2, .raw or .img.";
  if (format !== "qcow2" && file.size < SMALLEST) return `This file has only ${bytes(file.size)}; a bootable image has at least 10 MB. Was the download complete?`;
  if (format === "raw" && file.size % 512 !== 0) return "The size of this file is no multiple of 512, so it is no raw disk image. Was the download complete?";
  const head = new Uint8Array(await file.slice(0, 65536).arrayBuffer());
  const text = (from, length) => String.fromCharCode(...head.subarray(from, from + length));
  if (format === "qcow2" && text(0, 4) !== "QFI\xfb") return "This is not a qcow2 disk image, although its name says so.";
  return format === "iso" ? faultOfIso(head, text, file.size) : "";
}

/** The same of an ISO 9660 image, from its volume descriptors (ECMA-119 8, El Torito 1.0). */
function faultOfIso(head, text, size) {
  const number = (at) => new DataView(head.buffer).getUint32(at, true);
  if (text(32769, 5) !== "CD001") return "This is not a CD image. Choose the distribution's .iso file itself, not an archive of it.";
  let bootable = false;
  for (let at = 32768; at + 2048 <= head.length && text(at + 1, 5) === "CD001" && head[at] !== 255; at += 2048) {
    if (head[at] === 0 && text(at + 7, 23) === "EL TORITO SPECIFICATION") bootable = true;
    // Some tools leave out up to 150 sectors of padding that the descriptor counts.
    const whole = number(at + 80) * 2048;
    if (head[at] === 1 && whole > size + 150 * 2048) return `This image is cut off: ${bytes(size)} of ${bytes(whole)} are there. Download it again.`;
  }
  return bootable ? "" : "A PC cannot start from this CD image. Choose the installer or the live image of the distribution.";
}

function say(words) {
  $("upload-words").textContent = words;
}

function problemOf(error) {
  try {
    return JSON.parse(error.originalResponse.getBody()).detail;
  } catch {
    return "The server cannot be reached. Check your connection.";
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

/** Asks whether the image that is `there` may be replaced. Its time is kept with an upload that begins: when that goes on later (`before`) it does not ask again. */
function mayReplace(there, metadata, before) {
  metadata.replaces = there.modified_at;
  if (before?.metadata?.replaces === there.modified_at) return true;
  const loss = `Once the new one is whole, the ${bytes(there.size)} that came on ${exactly(there.modified_at)} are gone for good.`;
  return sure({ title: `Replace ${there.name}?`, loss, yes: "Replace" });
}

/** Sends a file that was chosen, unless it would be refused or is not to take another one's place. */
async function begin(file) {
  const mine = ++turn;
  const refuse = (words) => mine === turn && ($("image-error").textContent = words);
  refuse("");
  const why = await fault(file);
  if (why) return refuse(why);
  const metadata = { filename: file.name, format: formatOf(file.name), owner };
  const next = uploadOf(file, metadata, () => mine === turn);
  const [before] = (await next.findPreviousUploads()).filter(isOwn);
  const answer = await loadImages(file).catch((problem) => void (problem.status !== 401 && refuse(problem.message)));
  if (!answer || mine !== turn) return;
  // What has begun has its room.
  if (!before && file.size > left) return refuse(`This file has ${bytes(file.size)}, and your quota has ${bytes(left)} left. Remove an image first.`);
  const there = images.find((image) => !image.shared && image.name === answer.name);
  if (there && !(await mayReplace(there, metadata, before))) return;
  if (mine !== turn) return;
  if (before) next.resumeFromPreviousUpload(before);
  upload = next;
  $("image-done").textContent = "";
  $("upload-name").textContent = file.name;
  $("upload-bar").value = 0;
  say("Looking how far it is…");
  $("upload").hidden = false;
  $("upload-unfinished").replaceChildren();
  $("image-choose").hidden = true;
  go();
}

/** The upload of a file, which tells how it goes while `isWanted()`. */
function uploadOf(file, metadata, isWanted) {
  return new Upload(file, {
    endpoint: "/uploads/",
    metadata,
    retryDelays: [0, 1000, 3000, 5000, 10000, 20000, 30000],
    removeFingerprintOnSuccess: true,
    // An image that must stay stays however often it is asked: the client asks again after any other 409.
    onShouldRetry: (error) => !error.originalResponse?.getBody()?.includes('"image_in_use"') && defaultOptions.onShouldRetry(error),
    // It forgets how far it is when that question is refused: who is not signed in any more does not ask.
    onBeforeRequest: async (request) => void (request.getMethod() === "HEAD" && (await call("GET", "/auth/me"))),
    onProgress: progress,
    onError: (error) => {
      const status = error.originalResponse?.getStatus() ?? 0;
      // Its session is over, or the server has had enough for now: what has come stays there.
      if (status === 401 || status === 429 || status < 400 || status >= 500) {
        paused(true);
        waits = status === 0 || status >= 500;
        say(waits ? "Waiting for the server. It goes on by itself." : "Paused.");
        if (status === 401) return refused();
        if (waits) later = setTimeout(resumeUpload, WAIT_MS);
      } else over();
      $("image-error").textContent = problemOf(error);
    },
    onSuccess: async () => {
      over();
      await loadImages();
      if (!isWanted()) return;
      say("");
      $("image-done").textContent = `${file.name} is there. Start your desktop with it.`;
      told();
      lookForUnfinished();
    },
  });
}

function go() {
  clearTimeout(later);
  waits = false;
  $("image-error").textContent = "";
  speed = null;
  paused(false);
  upload.start();
}

async function pause() {
  if (!upload) return;
  if ($("upload-pause").dataset.paused) go();
  else await pauseUpload("Paused. You may close this page and choose the same file again later.");
}

/** Goes on with what waits for the server: it may be there again. */
export function resumeUpload() {
  if (upload && waits) go();
}

/** Holds what is on its way and says so; what has come stays there. */
export async function pauseUpload(words) {
  if (!upload) return;
  paused(true);
  waits = false;
  await upload.abort().catch(() => null);
  say(words);
}

/** Lets go of it and of what was told: somebody else is here now. */
export function dropUpload() {
  turn += 1;
  looks += 1;
  upload?.abort().catch(() => null);
  over();
  say("");
  for (const id of ["upload-unfinished", "image-done", "image-error"]) $(id).textContent = "";
}

async function cancel() {
  const was = upload;
  if (!(await mayThrowAway($("upload-name").textContent)) || was !== upload) return;
  over();
  say("");
  // Whether or not the server hears it: it throws half uploads away after a while.
  await was?.abort(true).catch(() => null);
  await lookAgain();
}

const mayThrowAway = (name) => sure({ title: "Throw this upload away?", loss: `What has come of ${name} is gone; another time it begins anew.`, yes: "Throw away" });

/** What is there, what is on its way, and the room that is left. */
async function lookAgain() {
  await Promise.all([loadImages(), lookForUnfinished()]).catch(() => null);
}

async function remove(image) {
  if (!(await sure({ title: `Remove ${image.name}?`, loss: `Its ${bytes(image.size)} are gone for good; to start from it again you have to upload it again.`, yes: "Remove" }))) return;
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
  const words = [bytes(image.size), image.shared ? "for everybody" : when(image.modified_at), image.in_use && "in use"].filter(Boolean);
  const row = make("li", { class: "py-3 flex flex-wrap gap-x-4 gap-y-1 items-center" });
  const name = make("span", { class: "font-semibold wrap-anywhere" }, image.name);
  row.append(make("span", { class: "mr-auto min-w-0" }, name, make("span", { class: "hint block" }, ...words.flatMap((word, at) => (at ? [", ", word] : [word])))));
  if (!image.shared) {
    const button = make("button", { type: "button", class: "btn", "aria-label": `Remove ${image.name}` }, "Remove");
    button.addEventListener("click", () => remove(image));
    row.append(button);
  }
  return row;
}

/** Asks what there is and shows it. The answer says what `file` would be called. */
export async function loadImages(file) {
  const about = file && new URLSearchParams({ filename: file.name, format: formatOf(file.name) });
  const answer = await call("GET", about ? `/isos?${about}` : "/isos");
  images = answer.isos;
  left = answer.quota.left;
  $("image-none").hidden = images.length > 0;
  $("image-list").replaceChildren(...images.map(line));
  const { used, unfinished, limit } = answer.quota;
  $("image-quota").textContent = `${bytes(used)} of your ${bytes(limit)} are used${unfinished ? `, and ${bytes(unfinished)} are kept for uploads that are not finished` : ""}.`;
  return answer;
}

/** Somebody else is here. */
export function welcomeToImages(user) {
  owner = user.id;
}

/** What may be started, for the picker. */
export function imageNames() {
  return images.map((image) => ({ name: image.name, words: `${image.name}, ${bytes(image.size)}` }));
}

/** The line of an upload of before, or nothing where it is not there: somebody else's is not, nor is one whose time is over. */
async function unfinishedLine({ uploadUrl, urlStorageKey, metadata, size }) {
  const url = uploadUrl && new URL(uploadUrl, location.href);
  if (!url || url.origin !== location.origin) return null;
  const answer = await fetch(url, { method: "HEAD", headers: TUS }).catch(() => null);
  if (!answer?.ok) return null;
  const name = metadata?.filename ?? "a file";
  const offset = Number(answer.headers.get("Upload-Offset"));
  // Its end came when nobody looked any more.
  if (offset === size) return void (await defaultOptions.urlStorage.removeUpload(urlStorageKey));
  const away = make("button", { type: "button", class: "btn", "aria-label": `Throw away what has come of ${name}` }, "Throw away");
  away.addEventListener("click", async () => {
    if (!(await mayThrowAway(name))) return;
    try {
      // Gone already is as good.
      await call("DELETE", url, undefined, TUS).catch((problem) => [404, 410].includes(problem.status) || Promise.reject(problem));
      await defaultOptions.urlStorage.removeUpload(urlStorageKey);
      $("image-error").textContent = "";
      await lookAgain();
      $("images-title").focus();
    } catch (problem) {
      if (problem.status !== 401) $("image-error").textContent = problem.message;
    }
  });
  const words = make("span", { class: "hint mr-auto min-w-0 wrap-anywhere" }, `${name}: ${bytes(offset)} of ${bytes(size)} have come. Choose the same file again to go on.`);
  return make("li", { class: "py-2 flex flex-wrap gap-x-4 gap-y-1 items-center" }, words, away);
}

/** Says which uploads of before have not come to their end, and offers to throw them away: each keeps its room. */
export async function lookForUnfinished() {
  const mine = ++looks;
  const before = await defaultOptions.urlStorage.findAllUploads().catch(() => []);
  const newest = before.filter(isOwn).sort((one, other) => Date.parse(other.creationTime) - Date.parse(one.creationTime)).slice(0, MOST_UNFINISHED);
  const lines = await Promise.all(newest.map(unfinishedLine));
  if (mine === looks && !upload) $("upload-unfinished").replaceChildren(...lines.filter(Boolean));
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
      const [file, ...more] = kind === "drop" ? event.dataTransfer.files : [];
      if (more.length) $("image-error").textContent = "One file at a time, please: drop them one after the other.";
      else if (file) begin(file);
    });
  }
  // What is dropped beside it must not take the page away; text may be dropped into a field.
  for (const kind of ["dragover", "drop"]) {
    addEventListener(kind, (event) => {
      if (event.defaultPrevented || !event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      event.dataTransfer.dropEffect = "none";
    });
  }
  addEventListener("online", resumeUpload);
  addEventListener("beforeunload", (event) => upload && !$("upload-pause").dataset.paused && event.preventDefault());
}
