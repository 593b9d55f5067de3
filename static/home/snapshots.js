// Snapshots of the machine on show: take one before trying something, and go back with one click.
import { call } from "../shared/api.js";
import { $, make, sure } from "../shared/dom.js";
import { when } from "../shared/when.js";
import { bytes } from "../shared/words.js";

const DOING = { save: "Taking", restore: "Going back to", delete: "Removing" };

const NO_DISK = "This desktop has no disk to keep a snapshot in. Start it with a disk next time: that is under Advanced.";
const RETRY_MS = 5000;

let again;
let listed = "";
let vmid = null;
let busy = false;
/** What is being done, as it was read out. */
let announced = "";

function tell(text, about = "") {
  $("snapshot-error").textContent = text;
  $("snapshot-error").dataset.of = about;
}

/** Reads out that something begins and ends, and nothing in between: how far it is changes ten times a second. */
function announce(doing) {
  if (doing === announced) return;
  $("snapshot-said").textContent = doing ? `${doing}…` : `${announced} has ended.`;
  announced = doing;
}

/** Does it, and gives whether that went well. */
async function act(method, rest, body) {
  tell("");
  const of = vmid;
  const done = await call(method, `/vms/${of}/snapshots${rest}`, body).then(() => true, (problem) => (tell(problem.code === "no_disk" ? NO_DISK : problem.message), false));
  if (vmid === of) await load();
  return done;
}

// Not disabled: that would take the focus away.
function mark(button) {
  button.ariaDisabled = busy ? "true" : null;
  return button;
}

function button(words, label, question, go) {
  const made = make("button", { type: "button", class: "btn", "aria-label": label }, words);
  made.addEventListener("click", async () => {
    if (busy || !(await sure(question))) return;
    await go();
    $("snapshots").querySelector("summary").focus();
  });
  return mark(made);
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
  let answer;
  try {
    answer = await call("GET", `/vms/${of}/snapshots`);
  } catch (problem) {
    if (vmid !== of || problem.status === 401) return;
    if (!$("snapshot-error").textContent) tell(`Your snapshots cannot be listed. ${problem.message}`, "list");
    clearTimeout(again);
    again = setTimeout(() => vmid === of && load(), RETRY_MS);
    return;
  }
  if (vmid !== of) return;
  if ($("snapshot-error").dataset.of === "list") tell("");
  $("snapshot-none").hidden = answer.snapshots.length > 0;
  // What is the same stays, and the focus in it.
  const text = JSON.stringify([of, answer.snapshots]);
  if (text === listed) return;
  listed = text;
  const lost = $("snapshot-list").contains(document.activeElement);
  $("snapshot-list").replaceChildren(...answer.snapshots.map(line));
  if (lost) $("snapshot-name").focus();
}

/** Shows the snapshots of `vm`, or nothing for none. */
export function showSnapshots(vm) {
  const on = vm?.state === "running";
  $("snapshots").hidden = !on;
  const job = vm?.job;
  const doing = job ? `${DOING[job.what]} ${job.name}` : "";
  $("snapshot-job").textContent = job ? `${doing}: ${job.percent} %` : "";
  announce(on ? doing : "");
  const was = busy;
  busy = Boolean(job);
  [$("snapshot-take"), ...$("snapshot-list").querySelectorAll("button")].forEach(mark);
  if (!on) {
    vmid = null;
    $("snapshot-said").textContent = "";
  } else if (vmid !== vm.vmid) {
    vmid = vm.vmid;
    $("snapshot-list").replaceChildren();
    listed = "";
    tell("");
    load();
  } else if (was && !busy) {
    // It may have been begun by another page.
    load();
  }
}

/** Wires the form. */
export function setUpSnapshots() {
  $("snapshot-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const name = $("snapshot-name").value.trim();
    if (name && !busy) act("POST", "", { name }).then((done) => done && ($("snapshot-name").value = ""));
  });
}
