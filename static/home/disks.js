// What a desktop writes to: nothing that stays, or a disk; and the disks there are. The choice says what is lost otherwise.
import { call } from "../shared/api.js";
import { $, make, sure } from "../shared/dom.js";
import { when } from "../shared/when.js";
import { bytes } from "../shared/words.js";

const LOST = "What you do is gone when the desktop stops.";
const KEPT = "What you save on this disk is there next time.";

let disks = [];
let keepsOne = false;
let mostGb = 1;
/** What was chosen on this page, or null. */
let picked = null;
let told = () => {};

function showChoice() {
  const value = $("disk").value;
  const isNew = value === "new" || value === "scratch";
  $("disk-new").hidden = !isNew;
  $("disk-name-field").hidden = value !== "new";
  // What is not seen must not keep the form from being sent.
  $("disk-gb").disabled = !isNew;
  $("disk-words").textContent = isKept() ? KEPT : LOST;
}

function line(disk) {
  const words = make("span", { class: "mr-auto min-w-0" }, make("span", { class: "font-semibold wrap-anywhere" }, disk.name));
  const about = make("span", { class: "hint block" }, `${disk.size_gb} GB, ${bytes(disk.used)} of them used, written to `, when(disk.modified_at));
  about.append(disk.vmid ? ", in use" : "");
  words.append(about);
  const away = make("button", { type: "button", class: "btn", "aria-label": `Remove the disk ${disk.name}`, disabled: Boolean(disk.vmid), title: disk.vmid && "Stop your desktop first." }, "Remove");
  away.addEventListener("click", async () => {
    const snapshots = disk.snapshots ? ` So ${disk.snapshots === 1 ? "is its snapshot" : `are its ${disk.snapshots} snapshots`}.` : "";
    if (!(await sure({ title: `Remove the disk ${disk.name}?`, loss: `Every file and every program you installed on it is gone for good.${snapshots}`, yes: "Remove" }))) return;
    $("disk-error").textContent = "";
    await call("DELETE", `/disks/${encodeURIComponent(disk.name)}`).catch((problem) => problem.status !== 404 && ($("disk-error").textContent = problem.message));
    await loadDisks().catch(() => null);
    told();
    $("disks-title").focus();
  });
  return make("li", { class: "py-3 flex flex-wrap gap-x-4 gap-y-1 items-center" }, words, away);
}

/** Asks which disks there are and lists them. */
export async function loadDisks() {
  const answer = await call("GET", "/disks");
  disks = answer.disks;
  $("disk-quota").textContent = `${answer.quota.used_gb} of your ${answer.quota.limit_gb} GB are taken.`;
  $("disk-none").hidden = disks.length > 0;
  $("disk-list").replaceChildren(...disks.map(line));
}

/** Offers what a desktop of this profile can have; `last` is what was chosen another time. */
export function showDisks(profile, last) {
  keepsOne = profile.persistence === "persistent";
  const option = (value, words) => make("option", { value }, words);
  const kept = disks.map((disk) => option(`kept:${disk.name}`, `My disk ${disk.name}, ${disk.size_gb} GB`));
  const usual = keepsOne ? [option("", "My usual disk"), option("none", "No disk that stays")] : [option("", "No disk that stays")];
  $("disk").replaceChildren(...usual, option("scratch", "An empty disk for this time"), ...kept, option("new", "A new disk that stays…"));
  const wanted = picked ?? last?.disk ?? "";
  if ([...$("disk").options].some((one) => one.value === wanted)) $("disk").value = wanted;
  if (picked === null && last?.disk_gb <= mostGb) $("disk-gb").value = last.disk_gb;
  showChoice();
}

/** The fields of POST /run-iso for what is chosen. */
export function diskWish() {
  const value = $("disk").value;
  const gb = Number($("disk-gb").value);
  if (value === "none") return { persistence: "ephemeral" };
  if (value === "scratch") return { data_disk_gb: gb, persistence: "ephemeral" };
  if (value === "new") return { disk: $("disk-name").value.trim(), data_disk_gb: gb };
  if (value.startsWith("kept:")) return { disk: value.slice(5) };
  return {};
}

/** What is remembered of the choice: a new disk is one of those there are, next time. */
export function diskChoice() {
  const value = $("disk").value;
  if (value === "new") return { disk: `kept:${$("disk-name").value.trim()}` };
  return value === "scratch" ? { disk: value, disk_gb: Number($("disk-gb").value) } : { disk: value };
}

/** Whether what is saved stays. */
export function isKept() {
  const value = $("disk").value;
  return value === "new" || value.startsWith("kept:") || (value === "" && keepsOne);
}

/** Whether a disk is chosen that can be started from. */
export function bootsDisk() {
  return $("disk").value.startsWith("kept:");
}

/** Somebody comes who has chosen nothing yet; a disk may have `most` GB. */
export function welcomeToDisks(most) {
  picked = null;
  mostGb = most;
  $("disk-gb").max = most;
  $("disk-gb").value = Math.min(16, most);
}

/** Wires the choice; `changed` is told of another one, `removed` of a disk that is gone. */
export function setUpDisks(changed, removed) {
  told = removed;
  $("disk").addEventListener("change", () => {
    picked = $("disk").value;
    showChoice();
    changed();
  });
}
