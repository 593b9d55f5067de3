// Snapshots of the machine on show: take one before trying something, and go back with one click.
import { call } from "../shared/api.js";
import { $, make, sure } from "../shared/dom.js";
import { when } from "../shared/when.js";
import { bytes } from "../shared/words.js";

const DOING = { save: "Taking", restore: "Going back to", delete: "Removing" };

let vmid = null;
let busy = false;

async function act(method, rest, body) {
  $("snapshot-error").textContent = "";
  const of = vmid;
  try {
    await call(method, `/vms/${of}/snapshots${rest}`, body);
  } catch (problem) {
    $("snapshot-error").textContent = problem.message;
  }
  if (vmid === of) await load();
}

function button(words, label, question, go) {
  const made = make("button", { type: "button", class: "btn", "aria-label": label, disabled: busy }, words);
  made.addEventListener("click", async () => {
    if (!(await sure(question))) return;
    await go();
    $("snapshots").querySelector("summary").focus();
  });
  return made;
}

function line(snapshot) {
  const path = `/${encodeURIComponent(snapshot.name)}`;
  const what = snapshot.memory ? `with its memory, ${bytes(snapshot.size)}` : "the disk alone";
  const words = make("span", { class: "mr-auto min-w-0" }, make("span", { class: "font-semibold wrap-anywhere" }, snapshot.name));
  words.append(make("span", { class: "hint block" }, when(snapshot.created_at), `, ${what}`));
  const lost = { title: `Go back to ${snapshot.name}?`, loss: "Everything that was done since then is lost: open programs, and files on the disk.", yes: "Go back" };
  const back = button("Go back", `Go back to ${snapshot.name}`, lost, () => act("POST", `${path}/restore`));
  const gone = { title: `Remove ${snapshot.name}?`, loss: "Nobody can go back to it any more. The desktop itself stays as it is.", yes: "Remove" };
  const away = button("Remove", `Remove ${snapshot.name}`, gone, () => act("DELETE", path));
  return make("li", { class: "py-3 flex flex-wrap gap-x-3 gap-y-2 items-center" }, words, back, away);
}

async function load() {
  const of = vmid;
  const answer = await call("GET", `/vms/${of}/snapshots`).catch(() => null);
  if (!answer || vmid !== of) return;
  $("snapshot-none").hidden = answer.snapshots.length > 0;
  $("snapshot-list").replaceChildren(...answer.snapshots.map(line));
}

/** Shows the snapshots of `vm`, or nothing for none. */
export function showSnapshots(vm) {
  const on = vm?.state === "running";
  $("snapshots").hidden = !on;
  const job = vm?.job;
  $("snapshot-job").textContent = job ? `${DOING[job.what]} ${job.name}: ${job.percent} %` : "";
  busy = Boolean(job);
  for (const one of [$("snapshot-take"), ...$("snapshot-list").querySelectorAll("button")]) one.disabled = busy;
  if (!on) {
    vmid = null;
  } else if (vmid !== vm.vmid) {
    vmid = vm.vmid;
    $("snapshot-list").replaceChildren();
    $("snapshot-error").textContent = "";
    load();
  }
}

/** Wires the form. */
export function setUpSnapshots() {
  $("snapshot-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const name = $("snapshot-name").value.trim();
    if (name) act("POST", "", { name }).then(() => ($("snapshot-name").value = ""));
  });
}
