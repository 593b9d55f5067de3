// Snapshots of the machine on show: take one before trying something, and go back with one click.
import { call, serverNow } from "../shared/api.js";
import { $, make } from "../shared/dom.js";
import { ago, bytes, exactly } from "../shared/words.js";

const DOING = { save: "Taking", restore: "Going back to", delete: "Removing" };

let vmid = null;

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

/** A button that asks once, in its own place, and names what is lost. */
function sure(words, question, label, go) {
  const button = make("button", { type: "button", class: "btn", "aria-label": label }, words);
  button.addEventListener("click", () => {
    if (button.textContent === question) return go();
    button.textContent = question;
    button.removeAttribute("aria-label");
  });
  button.addEventListener("blur", () => {
    button.textContent = words;
    button.setAttribute("aria-label", label);
  });
  return button;
}

function line(snapshot) {
  const path = `/${encodeURIComponent(snapshot.name)}`;
  const when = serverNow() - Date.parse(snapshot.created_at);
  const what = snapshot.memory ? `with its memory, ${bytes(snapshot.size)}` : "the disk alone";
  const words = make("span", { class: "mr-auto min-w-0" }, make("span", { class: "font-semibold wrap-anywhere" }, snapshot.name));
  words.append(make("span", { class: "hint block", title: exactly(snapshot.created_at) }, `${ago(when)}, ${what}`));
  const back = sure("Go back", "Lose what came after?", `Go back to ${snapshot.name}`, () => act("POST", `${path}/restore`));
  const away = sure("Remove", "Remove for good?", `Remove ${snapshot.name}`, () => act("DELETE", path));
  return make("li", { class: "py-3 flex flex-wrap gap-x-3 gap-y-2 items-center" }, words, back, away);
}

async function load() {
  const of = vmid;
  const answer = await call("GET", `/vms/${of}/snapshots`).catch(() => null);
  if (!answer || vmid !== of) return;
  $("snapshot-list").replaceChildren(...answer.snapshots.map(line));
}

/** Shows the snapshots of `vm`, or nothing for none. */
export function showSnapshots(vm) {
  const on = vm?.state === "running";
  $("snapshots").hidden = !on;
  const job = vm?.job;
  $("snapshot-job").textContent = job ? `${DOING[job.what]} ${job.name}: ${job.percent} %` : "";
  $("snapshot-take").disabled = Boolean(job);
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
