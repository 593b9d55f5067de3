// What a desktop writes to: nothing that stays, or a disk. The choice says what is lost otherwise.
import { call } from "../shared/api.js";
import { $, make } from "../shared/dom.js";

const LOST = "What you do is gone when the desktop stops.";
const KEPT = "What you save on this disk is there next time.";

let disks = [];

function showChoice() {
  const value = $("disk").value;
  $("disk-new").hidden = value !== "new" && value !== "scratch";
  $("disk-name-field").hidden = value !== "new";
  $("disk-words").textContent = value === "" || value === "scratch" ? LOST : KEPT;
}

/** Asks which disks there are and offers them, `persistent` where the profile keeps one by itself. */
export async function loadDisks() {
  disks = (await call("GET", "/disks")).disks;
  const option = (value, words) => make("option", { value }, words);
  const kept = disks.map((disk) => option(`kept:${disk.name}`, `My disk ${disk.name}, ${disk.size_gb} GB`));
  const before = $("disk").value;
  $("disk").replaceChildren(option("", "No disk of mine"), option("scratch", "An empty disk for this time"), ...kept, option("new", "A new disk that stays…"));
  if ([...$("disk").options].some((one) => one.value === before)) $("disk").value = before;
  showChoice();
}

/** The fields of POST /run-iso for what is chosen. */
export function diskWish() {
  const value = $("disk").value;
  const gb = Number($("disk-gb").value);
  if (value === "scratch") return { data_disk_gb: gb, persistence: "ephemeral" };
  if (value === "new") return { disk: $("disk-name").value.trim(), data_disk_gb: gb };
  if (value.startsWith("kept:")) return { disk: value.slice(5) };
  return {};
}

/** Whether what is saved stays. */
export function isKept() {
  return $("disk").value === "new" || $("disk").value.startsWith("kept:");
}

/** Wires the choice; `changed` is told of another one. */
export function setUpDisks(changed) {
  $("disk").addEventListener("change", () => {
    showChoice();
    changed();
  });
  $("image").addEventListener("change", changed);
}
