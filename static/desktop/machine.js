// The machine behind the screen, as the API knows it: found by its id or by its websocket's port.
import { call } from "../shared/api.js";
import { consoleUrl } from "./address.js";
import { RESTART_LOSS, ending, loss } from "../shared/words.js";
import { $, ask } from "../shared/dom.js";

const ALIVE = ["starting", "running", "stopping"];
const LOOK_MS = 300;
const LOOKS = 10;

/** The newest machine with this id or port, or null. Throws a Problem when it cannot be known. */
export async function find({ port, vmid }) {
  if (vmid) {
    return call("GET", `/vms/${vmid}`).then((answer) => answer?.vm ?? answer, (problem) => {
      if (problem.status === 404) return null;
      throw problem;
    });
  }
  const { vms } = await call("GET", "/vms");
  return vms.find((vm) => vm.http_port === port) ?? null;
}

/** Why no connection came about: `there` (try again), `stopped`, `signed-out`, `missing` or `forbidden`. */
export async function stillThere(address) {
  if (address.share) {
    // Without an account only the console itself tells: it asks for a websocket, or knows of no such link.
    const answer = await fetch(consoleUrl(address), { cache: "no-store" }).catch(() => null);
    return answer?.status === 404 ? "forbidden" : "there";
  }
  try {
    const vm = await find(address);
    if (!vm) return "missing";
    return ALIVE.includes(vm.state) ? "there" : "stopped";
  } catch (problem) {
    return problem.status === 401 ? "signed-out" : "there";
  }
}

/** The machine once its end is written down: its screen closes a moment before. */
async function finished(address) {
  for (let looks = 0; ; looks += 1) {
    const vm = await find(address).catch(() => null);
    if (!vm || !ALIVE.includes(vm.state) || looks === LOOKS) return vm;
    await new Promise((later) => setTimeout(later, LOOK_MS));
  }
}

/** The words for the end of it all; `page` is what the person looked at. */
export async function epitaph(why, address, page = "desktop") {
  if (address.share && why === "stopped") return ["This desktop has stopped", "Whoever shared it with you can start it again and send you another link."];
  if (address.share && why === "forbidden") return ["This link has ended", "It was revoked, or its time is up. Ask whoever gave it to you for another one."];
  switch (why) {
    case "stopped": {
      const vm = await finished(address);
      // Who looks at somebody else's cannot start it again.
      if (address.watches) return ["This desktop has stopped", vm && !ALIVE.includes(vm.state) ? ending(vm, false) : "Its owner can start it again."];
      return ["Your desktop has stopped", vm && !ALIVE.includes(vm.state) ? ending(vm) : "Start it again from the start page."];
    }
    case "forbidden":
      return ["You are no longer allowed here", "Your session has ended, or this desktop is no longer yours. Log in again on the start page."];
    case "signed-out":
      return ["You are not logged in", "Log in on the start page, then open your desktop from there."];
    case "password":
      return ["This desktop asks for a password", "The server did not open it for you. Open it again from the start page."];
    case "address":
      return ["This link is not complete", `A ${page}'s address ends in something like ?path=ws/6111${page === "terminal" ? "/serial" : ""}. Open yours from the start page.`];
    default:
      return ["There is no desktop here", "It may have ended. Start yours from the start page."];
  }
}

/** Asks once how to restart, then does; `onRestarting(mode)` hears when. Resolves to a sentence to show when that failed. */
export async function askAndRestart(address, onRestarting) {
  $("restart-loss").textContent = RESTART_LOSS;
  const mode = await ask($("restart"));
  if (mode !== "reset" && mode !== "power-cycle") return "";
  try {
    const vm = await find(address);
    if (!vm) return "It is not known which desktop this is. Restart it from the start page.";
    onRestarting(mode);
    await call("POST", `/vms/${vm.vmid}/restart`, { mode });
    return "";
  } catch (problem) {
    return problem.message;
  }
}

/** Asks once, names what is lost, stops. Resolves to a sentence to show when that failed. */
export async function askAndStop(address, onStopping) {
  const dialog = $("stop");
  let vm;
  try {
    vm = await find(address);
  } catch (problem) {
    // What would be lost is not known, so it is not asked for.
    return problem.message;
  }
  if (!vm) return "It is not known which desktop this is. Stop it from the start page.";
  $("stop-loss").textContent = loss(vm);
  if ((await ask(dialog)) !== "stop") return "";
  onStopping();
  return call("POST", `/vms/${vm.vmid}/stop`, {}).then(() => "", (problem) => problem.message);
}
