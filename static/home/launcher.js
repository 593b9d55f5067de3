// The one button: which desktop, how large, and start.
//
// The last choice is remembered in this browser. Only what differs from the profile's own default
// is sent, so that a default the teacher changes later is followed.
import { call } from "../shared/api.js";
import { $, make, memory } from "../shared/dom.js";
import { diskWish, isKept } from "./disks.js";
import { imageNames } from "./images.js";
import { bytes, imageName, keeps, limits, megabytes } from "../shared/words.js";

const STEP_MB = 256;
const NETWORKS = { none: "It has no network.", restricted: "It has no internet.", internet: "It has internet." };

let profiles = [];

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

function showChosen() {
  const profile = chosen();
  $("start").disabled = !profile?.available;
  $("advanced").hidden = !profile?.available;
  if (!profile) {
    $("launch-facts").textContent = "This server has no desktop to offer yet. Whoever runs it has to set up a profile.";
    return;
  }
  if (!profile.available) {
    $("launch-facts").textContent = profile.why || "It cannot be started right now.";
    return;
  }
  const last = remembered();
  const mine = last.profile === profile.name ? last : {};
  const memoryMost = profile.max_memory_mb ?? profile.default_memory_mb;
  const step = [memoryMost, profile.default_memory_mb].every((mb) => mb % STEP_MB === 0) ? STEP_MB : 1;
  slider("memory", { least: Math.min(STEP_MB, profile.default_memory_mb), most: memoryMost, step, value: mine.memory_mb ?? profile.default_memory_mb, words: megabytes });
  slider("cpus", { least: 1, most: profile.max_cpus ?? profile.default_cpus, step: 1, value: mine.cpus ?? profile.default_cpus, words: String });
  showFacts();
}

/** One line of what will start, and of what is lost. */
export function showFacts() {
  const profile = chosen();
  if (!profile?.available) return;
  const picked = $("image").selectedOptions[0];
  const usual = profiles.length === 1 && profile.iso ? `${imageName(profile.iso)}, ${bytes(profile.iso.size)}. ` : "";
  const image = picked?.value ? `${picked.textContent}. ` : usual;
  const kept = isKept() ? "persistent" : profile.persistence;
  $("launch-facts").textContent = [image + keeps(kept), NETWORKS[profile.network], limits(profile)].filter(Boolean).join(" ");
}

function card(profile, checked) {
  const radio = make("input", { type: "radio", name: "profile", value: profile.name, class: "mt-1.5 size-4 flex-none", checked, disabled: !profile.available });
  radio.addEventListener("change", showChosen);
  const facts = profile.available ? [imageName(profile.iso), bytes(profile.iso?.size)].filter(Boolean).join(", ") : profile.why || "Not available now.";
  return make("label", { class: "choice" }, radio, make("span", { class: "min-w-0" }, make("span", { class: "block font-semibold wrap-anywhere" }, profile.title || profile.name), make("span", { class: "hint block wrap-anywhere" }, facts)));
}

/** Asks what may be launched and shows it; a picker only where there is a choice. */
export async function loadProfiles() {
  profiles = (await call("GET", "/profiles")).profiles;
  const last = remembered().profile;
  const usable = profiles.filter((profile) => profile.available);
  const first = usable.find((profile) => profile.name === last) ?? usable[0];
  const picker = $("profiles");
  picker.replaceChildren(picker.querySelector("legend"), ...profiles.map((profile) => card(profile, profile === first)));
  picker.hidden = profiles.length < 2;
  showChosen();
}

/** Offers what may be started: the profile's own image first. */
export function showImages() {
  const before = $("image").value || remembered().iso;
  const option = (value, words) => make("option", { value }, words);
  $("image").replaceChildren(option("", "The usual one"), ...imageNames().map((image) => option(image.name, image.words)));
  if ([...$("image").options].some((one) => one.value === before)) $("image").value = before;
  showFacts();
}

/** The body of POST /run-iso for what is chosen now, and remembers the choice. */
export function wish() {
  const profile = chosen();
  if (!profile) return {};
  const body = { profile: profile.name };
  if (Number($("memory").value) !== profile.default_memory_mb) body.memory_mb = Number($("memory").value);
  if (Number($("cpus").value) !== profile.default_cpus) body.cpus = Number($("cpus").value);
  if ($("image").value) body.iso = $("image").value;
  memory.set("choice", JSON.stringify(body));
  return { ...body, ...diskWish() };
}

/** What the profile of this name is called. */
export function titleOf(name) {
  const profile = profiles.find((one) => one.name === name);
  return profile?.title || name || "Desktop";
}
