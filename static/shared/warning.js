// The bar that tells what is about to happen to a machine, or why it stands still, with the one
// button that helps its owner. Every page about a machine has its markup: #warning, -said, -text, -act.
//
// The text counts down and is not read out each second: what is read out is said once.
import { call, serverNow } from "./api.js";
import { $ } from "./dom.js";
import { listen } from "./events.js";
import { standingStill, warningOf } from "./words.js";

const ACTS = { keep: "Keep it running", resume: "Resume" };

let shown = null;
let dismissed = "";
let act = "";
/** Why the button did not help. */
let trouble = "";
/** What is told, as it is read out. */
let said = "";

function draw() {
  const left = shown?.expires_at ? Date.parse(shown.expires_at) - serverNow() : 0;
  const told = standingStill(shown) ?? (shown?.state === "running" && shown.expires_soon ? warningOf(shown, left, !shown.foreign) : null);
  const words = told && told.said !== dismissed ? told : null;
  $("warning").hidden = !words;
  if (!words) {
    $("warning-said").textContent = said = trouble = "";
    return;
  }
  ({ said } = words);
  act = words.act ?? "dismiss";
  if ($("warning-said").textContent !== (trouble || said)) $("warning-said").textContent = trouble || said;
  $("warning-text").textContent = `${trouble} ${words.text}`.trim();
  const label = ACTS[act] ?? "Close";
  if ($("warning-act").textContent !== label) $("warning-act").textContent = label;
}

async function help() {
  if ($("warning-act").ariaDisabled) return;
  if (act === "dismiss") {
    dismissed = said;
    return draw();
  }
  // Not disabled: that would take the focus away.
  $("warning-act").ariaDisabled = "true";
  trouble = "";
  // What is the same again is read out again.
  draw();
  try {
    shown = await call("POST", `/vms/${shown.vmid}/${act}`, {});
  } catch (problem) {
    trouble = problem.status === 401 ? "You are not logged in any more. Log in on the start page, then come back." : problem.message;
  } finally {
    $("warning-act").ariaDisabled = null;
    draw();
  }
}

/** Draws what there is to say of this machine, if anything. */
export function warn(vm) {
  if (vm?.vmid !== shown?.vmid || !(vm?.expires_soon || vm?.paused)) dismissed = "";
  if (vm?.paused !== shown?.paused || vm?.vmid !== shown?.vmid) trouble = "";
  shown = vm;
  draw();
}

/** Wires the bar. `done()` is called after a click, to give the focus back. */
export function setUpWarning(done = () => {}) {
  $("warning-act").addEventListener("click", () => help().then(done));
  setInterval(draw, 1000);
}

/** Listens for news of the machine behind a console until `close()` of what it returns is called; `onVm` hears them too. */
export function warnOf(address, onVm) {
  const isOurs = (vm) => vm && (address.vmid ? vm.vmid === address.vmid : vm.http_port === address.port);
  const told = (vm) => {
    warn(vm);
    onVm(vm);
  };
  const news = listen({ onVm: (vm) => told(isOurs(vm) ? vm : null) });
  return {
    close() {
      news.close();
      told(null);
    },
  };
}
