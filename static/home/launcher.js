// The one button: which desktop, from what, how large, and start.
//
// The last choice is remembered in this browser. Only what differs from the profile's own default
// is sent, so that a default the teacher changes later is followed.
import { call } from "../shared/api.js";
import { $, make, memory } from "../shared/dom.js";
import { bootsDisk, diskChoice, diskWish, isKept, showDisks, welcomeToDisks } from "./disks.js";
import { imageNames } from "./images.js";
import { bytes, imageName, keeps, limits, megabytes } from "../shared/words.js";

const STEP_MB = 256;
const NETWORKS = { none: "It has no network.", restricted: "It has no internet.", internet: "It has internet." };
/** What the fields of POST /run-iso are called on this page. */
const LABELS = { iso: "Image", disk: "Name of the new disk", data_disk_gb: "Its size in GB", memory_mb: "Memory", cpus: "CPUs" };

let profiles = [];
/** The image chosen on this page, or null. */
let picked = null;
/** The id of who is here. */
let mine = "";

function remembered() {
  try {
    return JSON.parse(memory.get("choice") ?? "{}") ?? {};
  } catch {
    return {};
  }
}

function chosen() {
  const name = $("launcher").querySelector('input[name="profile"]:checked')?.value;
  return profiles.find((profile) => profile.name === name) ?? profiles[0];
}

/** The profile's own image for whoever is here: that may be named by a user's id. */
const usualName = (profile) => (imageName(profile.iso) === `${mine}.iso` ? "Your image" : imageName(profile.iso));

function slider(id, { least, most, step, value, words }) {
  const input = $(id);
  Object.assign(input, { min: least, max: Math.max(least, most), step });
  input.value = value;
  input.disabled = most <= least;
  const tell = () => {
    $(`${id}-out`).textContent = words(Number(input.value));
    input.setAttribute("aria-valuetext", words(Number(input.value)));
  };
  input.oninput = tell;
  tell();
}

/** The images this profile can start from: its own first. */
function showImages(profile, last) {
  const option = (value, words) => make("option", { value }, words);
  const usual = profile.iso ? `${usualName(profile)}, ${bytes(profile.iso.size)} (the usual one)` : "None: start from the disk";
  const own = profile.available || bootsDisk() ? [option("", usual)] : [];
  const others = imageNames().filter((image) => image.name !== profile.iso?.name);
  $("image").replaceChildren(...own, ...others.map((image) => option(image.name, image.words)));
  const wanted = picked ?? last.iso ?? "";
  if ([...$("image").options].some((one) => one.value === wanted)) $("image").value = wanted;
  $("image-field").hidden = others.length === 0;
}

/** Shows what may be chosen, and what is, once it is known what there is. */
export function showChosen() {
  const profile = chosen();
  $("advanced").hidden = !profile;
  if (!profile) {
    $("start").disabled = true;
    $("image-field").hidden = true;
    $("launch-facts").textContent = "This server has no desktop to offer yet. Whoever runs it has to set up a profile.";
    return;
  }
  const last = remembered();
  const same = last.profile === profile.name ? last : {};
  const memoryMost = profile.max_memory_mb ?? profile.default_memory_mb;
  const step = [memoryMost, profile.default_memory_mb].every((mb) => mb % STEP_MB === 0) ? STEP_MB : 1;
  slider("memory", { least: Math.min(STEP_MB, profile.default_memory_mb), most: memoryMost, step, value: same.memory_mb ?? profile.default_memory_mb, words: megabytes });
  slider("cpus", { least: 1, most: profile.max_cpus ?? profile.default_cpus, step: 1, value: same.cpus ?? profile.default_cpus, words: String });
  refreshChoice();
}

/** Offers the images and disks there are now; the rest stays as it is. */
export function refreshChoice() {
  const profile = chosen();
  if (!profile) return;
  const last = remembered();
  const same = last.profile === profile.name ? last : {};
  showDisks(profile, same);
  showImages(profile, same);
  showFacts();
}

/** One line of what will start, and of what is lost. */
function showFacts() {
  const profile = chosen();
  if (!profile) return;
  const can = profile.available || Boolean($("image").value) || bootsDisk();
  $("start").disabled = !can;
  const usual = profiles.length === 1 && profile.iso && $("image-field").hidden ? `${usualName(profile)}, ${bytes(profile.iso.size)}. ` : "";
  const words = [usual + keeps(isKept() ? "persistent" : "ephemeral"), NETWORKS[profile.network], limits(profile)];
  $("launch-facts").textContent = can ? words.filter(Boolean).join(" ") : profile.why || "It cannot be started right now.";
}

function card(profile, checked) {
  const radio = make("input", { type: "radio", name: "profile", value: profile.name, class: "mt-1.5 size-4 flex-none", checked });
  radio.addEventListener("change", showChosen);
  const facts = profile.available ? [usualName(profile), bytes(profile.iso?.size)].filter(Boolean).join(", ") : profile.why || "Not available now.";
  return make("label", { class: "choice" }, radio, make("span", { class: "min-w-0" }, make("span", { class: "block font-semibold wrap-anywhere" }, profile.title || profile.name), make("span", { class: "hint block wrap-anywhere" }, facts)));
}

/** Asks what may be launched; a picker only where there is a choice. [`showChosen`] shows it. */
export async function loadProfiles() {
  profiles = (await call("GET", "/profiles")).profiles;
  const last = remembered().profile;
  const first = profiles.find((profile) => profile.name === last) ?? profiles.find((profile) => profile.available) ?? profiles[0];
  const picker = $("profiles");
  picker.replaceChildren(picker.querySelector("legend"), ...profiles.map((profile) => card(profile, profile === first)));
  picker.hidden = profiles.length < 2;
}

/** The body of POST /run-iso for what is chosen now; `remember` keeps the choice for another time. */
export function wish(remember) {
  const profile = chosen();
  if (!profile) return {};
  const body = { profile: profile.name };
  if (Number($("memory").value) !== profile.default_memory_mb) body.memory_mb = Number($("memory").value);
  if (Number($("cpus").value) !== profile.default_cpus) body.cpus = Number($("cpus").value);
  if ($("image").value) body.iso = $("image").value;
  if (remember) memory.set("choice", JSON.stringify({ ...body, ...diskChoice() }));
  return { ...body, ...diskWish() };
}

/** A problem of POST /run-iso in the words of this page. */
export function launchProblem(problem) {
  const label = LABELS[problem.field];
  return label ? problem.message.replace(`${problem.field}:`, `${label}:`) : problem.message;
}

/** Somebody comes who has chosen nothing yet; `limits` are theirs. */
export function welcome({ user, limits }) {
  picked = null;
  mine = user.id;
  welcomeToDisks(limits.max_data_disk_gb);
}

/** Wires the choices. */
export function setUpLauncher() {
  $("image").addEventListener("change", () => {
    picked = $("image").value;
    showFacts();
  });
}

/** What the profile of this name is called. */
export function titleOf(name) {
  const profile = profiles.find((one) => one.name === name);
  return profile?.title || name || "Desktop";
}
