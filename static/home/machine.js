// The card in the middle of the page: which of its four faces shows, and what it says.
//
// `show(vm)` is the only way in, whatever told us (an answer, an event, a reload). It draws the
// state it is given and keeps nothing but the machine on show and when its start began.
import { call, serverNow } from "../shared/api.js";
import { $, ask, badge, idButton, make, notice } from "../shared/dom.js";
import { thumbnail } from "../shared/thumbnail.js";
import { warn } from "../shared/warning.js";
import { when } from "../shared/when.js";
import { RESTART_LOSS, ending, exactly, idleLimit, imageName, keeps, loss, megabytes, span, watching } from "../shared/words.js";
import { titleOf } from "./launcher.js";
import { showSnapshots } from "./snapshots.js";

const STATES = { running: ["Running", "good"], stopping: ["Shutting down", "warn"] };
const ACCELERATORS = { kvm: "Hardware (KVM)", tcg: "None (software)" };
// Said while the start takes: the server answers only at its end, so these promise nothing.
const WAITING = [[0, "Making room and switching the machine on…"], [4, "Waiting for its screen…"], [20, "Still starting: without hardware acceleration this takes longer…"], [60, "Much longer than usual. It is still being tried…"]];

let picture = null;
let shown = null;
let since = 0;

/** The machine on show, or null. */
export function current() {
  return shown;
}

/** Whether this state has a machine behind it. */
export function alive(vm) {
  return ["starting", "running", "stopping"].includes(vm?.state);
}

function face(name) {
  const had = document.activeElement;
  for (const panel of document.querySelectorAll("[data-panel]")) panel.hidden = panel.dataset.panel !== name;
  // The focused button has just gone: go on where its work goes on.
  if (had && had !== document.body && !had.offsetParent && !document.querySelector("dialog[open]")) {
    ({ starting: $("starting-title"), running: $("vm-open") }[name] ?? $("greeting")).focus();
  }
}

function say(words) {
  if ($("announce").textContent !== words) $("announce").textContent = words;
}

function fact(name, value, title) {
  const drawn = [name, value.textContent ?? value, title].join("\n");
  return make("div", { class: "min-w-0", "data-drawn": drawn }, make("dt", { class: "hint" }, name), make("dd", { class: "font-semibold wrap-anywhere", title }, value));
}

/** Draws the facts that changed: the others stay, and so do the focus and "Copied" in them. */
function drawFacts(facts) {
  const wanted = new Set(facts.map((one) => one.dataset.drawn));
  for (const one of [...$("vm-facts").children]) if (!wanted.has(one.dataset.drawn)) one.remove();
  let at = $("vm-facts").firstElementChild;
  for (const one of facts) {
    if (at?.dataset.drawn === one.dataset.drawn) at = at.nextElementSibling;
    else $("vm-facts").insertBefore(one, at);
  }
}

function showRunning(vm) {
  const [word, kind] = STATES[vm.state];
  $("vm-title").textContent = titleOf(vm.profile);
  $("vm-state").textContent = vm.paused ? "Standing still" : word;
  $("vm-state").dataset.kind = vm.paused ? "bad" : kind;
  const facts = [
    fact("Running for", make("span", { id: "vm-uptime", class: "tabular-nums" }), vm.started_at && `Since ${exactly(vm.started_at)}`),
    vm.idle_limit_s && fact("Stops after", idleLimit(vm.idle_limit_s)),
    vm.time_limit_at && fact("Time left", make("span", { id: "vm-left", class: "tabular-nums" }), `Until ${exactly(vm.time_limit_at)}`),
    fact("Memory", megabytes(vm.memory_mb)),
    fact("CPUs", String(vm.cpus)),
    vm.disk && fact("Disk", `${vm.disk}, ${vm.disk_gb} GB`),
    imageName(vm.iso) && fact("Image", imageName(vm.iso)),
    vm.accel && fact("Acceleration", ACCELERATORS[vm.accel] ?? vm.accel),
    fact("Id", idButton(vm.vmid)),
  ];
  drawFacts(facts.filter(Boolean));
  badge($("watched"), watching(vm.watched_by));
  $("vm-slow").hidden = vm.accel !== "tcg";
  $("vm-keeps").textContent = keeps(vm.persistence);
  $("vm-look").href = $("vm-open").href = `/novnc/?path=ws/${encodeURIComponent(vm.http_port)}&vmid=${encodeURIComponent(vm.vmid)}`;
  $("vm-terminal").href = `/terminal/?path=ws/${encodeURIComponent(vm.http_port)}/serial&vmid=${encodeURIComponent(vm.vmid)}`;
  $("vm-restart").hidden = $("vm-share").hidden = vm.state !== "running";
  $("vm-stop").textContent = vm.state === "stopping" ? "Stop at once" : "Stop";
  say(vm.state === "running" ? "Your desktop is running." : "Your desktop is shutting down.");
  face("running");
}

/** It is not known yet what can be done. */
export function showLoading() {
  face("loading");
}

/** Draws what is known of the caller's machine; null means there is none. */
export function show(vm) {
  showSnapshots(vm);
  picture.show(vm?.state === "running" ? vm.vmid : null);
  if (vm?.vmid !== shown?.vmid || vm?.state !== shown?.state) $("vm-error").textContent = "";
  shown = vm;
  warn(vm);
  if (vm?.state === "starting") {
    since ||= vm.created_at ? Math.min(Date.parse(vm.created_at), serverNow()) : serverNow();
    say("Your desktop is starting.");
    face("starting");
  } else {
    since = 0;
    if (alive(vm)) showRunning(vm);
    else {
      notice($("ended"), vm ? `Your last desktop is gone. ${ending(vm)}` : "", vm?.state === "failed" ? "bad" : "");
      if (vm) say(`Your desktop has ended. ${ending(vm)}`);
      face("idle");
    }
  }
  tick();
}

/** Shows why a start failed, beside the button to try again. */
export function showLaunchError(text) {
  notice($("launch-error"), text, "bad");
}

function tick() {
  if (shown?.state === "starting") {
    const seconds = Math.max(0, Math.floor((serverNow() - since) / 1000));
    $("starting-seconds").textContent = span(seconds * 1000);
    $("starting-words").textContent = WAITING.findLast(([from]) => seconds >= from)[1];
  } else if (alive(shown)) {
    $("vm-uptime").textContent = shown.started_at ? span(serverNow() - Date.parse(shown.started_at)) : "0 s";
    if (shown.time_limit_at) $("vm-left").textContent = span(Date.parse(shown.time_limit_at) - serverNow());
  }
}

async function restart() {
  if ($("vm-restart").ariaDisabled) return;
  const vm = shown;
  $("restart-loss").textContent = RESTART_LOSS;
  const mode = await ask($("restart"));
  if (!["reset", "power-cycle"].includes(mode) || shown?.vmid !== vm.vmid || !alive(shown)) return;
  // Not disabled: that would take the focus away.
  $("vm-restart").ariaDisabled = "true";
  $("vm-error").textContent = "";
  $("vm-doing").textContent = mode === "reset" ? "Restarting…" : "Switching it off and on…";
  try {
    await call("POST", `/vms/${vm.vmid}/restart`, { mode });
    say("Your desktop was restarted.");
  } catch (problem) {
    if (shown?.vmid === vm.vmid) $("vm-error").textContent = problem.message;
  } finally {
    $("vm-doing").textContent = "";
    $("vm-restart").ariaDisabled = null;
  }
}

async function stop() {
  const vm = shown;
  const force = vm.state === "stopping";
  $("stop-loss").textContent = loss(vm);
  if ((await ask($("stop"))) !== "stop" || shown?.vmid !== vm.vmid || !alive(shown)) return;
  try {
    show({ ...shown, state: "stopping" });
    const answer = await call("POST", `/vms/${vm.vmid}/stop`, force ? { force: true } : {});
    // The event may have come first: never draw an older state over a newer one.
    if (shown?.vmid === vm.vmid && alive(shown)) show(answer?.vm ?? answer);
  } catch (problem) {
    if (shown?.vmid !== vm.vmid || !alive(shown)) return;
    show(vm);
    $("vm-error").textContent = problem.message;
  }
}

/** Wires the card: the clock and the Stop button. */
export function setUpMachine() {
  setInterval(tick, 1000);
  picture = thumbnail($("vm-picture"), { every: 5000 });
  $("vm-stop").addEventListener("click", stop);
  $("vm-restart").addEventListener("click", restart);
}

/** One line of a past session. */
export function pastLine(vm) {
  const began = vm.started_at ?? vm.created_at;
  const what = make("span", { class: "font-semibold wrap-anywhere mr-auto" }, titleOf(vm.profile));
  return make("li", { class: "py-3 flex flex-wrap gap-x-4 gap-y-1 items-baseline" }, what, when(began, { class: "hint" }), make("span", { class: "hint w-full wrap-anywhere" }, ending(vm)));
}
