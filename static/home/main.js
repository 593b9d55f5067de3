// The home page: who is here, and how their desktop is.
//
// The page draws itself first (theme.js guessed whether somebody is signed in) and asks the server
// after that. Then one stream of events carries every change. A launch is a POST that answers when
// the screen can be shown; a page that finds a start under way posts again, which joins it.
import { call, onSignedOut } from "../shared/api.js";
import { $, memory, notice } from "../shared/dom.js";
import { openAuth, setSignup, setUpAuth } from "./auth.js";
import { forgetAccount, setUpAccount, showAccount } from "./account.js";
import { listen } from "../shared/events.js";
import { waitBefore } from "../shared/retry.js";
import { setUpWarning } from "../shared/warning.js";
import { loadDisks, setUpDisks } from "./disks.js";
import { dropUpload, loadImages, lookForUnfinished, pauseUpload, resumeUpload, setUpImages, welcomeToImages } from "./images.js";
import { launchProblem, loadProfiles, refreshChoice, setUpLauncher, showChosen, welcome, wish } from "./launcher.js";
import { setUpShare } from "./share.js";
import { setUpSnapshots } from "./snapshots.js";
import { listViewers } from "./viewers.js";
import { alive, current, pastLine, setUpMachine, show, showLaunchError, showLoading } from "./machine.js";

const RETRY_MS = 3000;
/** Lists wait so long for what stands above them. */
const LOOK_MS = 2000;
const OPENING = "vmshare.opening";

let events = null;
/** Who was signed in last. */
let who = null;
/** The start that is waited for, or null. A log-out lets go of it: its answer leads nobody anywhere then. */
let launching = null;
let loggingOut = false;
// Counts log-ins and their ends: who waited for an answer across one does not go on.
let turn = 0;

function session(state) {
  document.documentElement.dataset.session = state;
  memory.set("session", state);
}

/** Somebody is signed in: asks what they may start, and listens. `me` is the answer of /auth/me. */
async function enter(me, attempt = 0) {
  const mine = ++turn;
  if (who !== me.user.id) {
    launching = null;
    forget();
    welcome(me);
    welcomeToImages(me.user);
  }
  who = me.user.id;
  showAccount(me.user);
  session("in");
  notice($("banner"), "");
  showLaunchError("");
  deafen();
  // Before it is known what there is, nothing can be chosen, and a click on Start would ask for nothing.
  if (!alive(current())) showLoading();
  const looked = Promise.race([lookForUnfinished(), new Promise((late) => setTimeout(late, LOOK_MS))]);
  const problem = await Promise.all([loadProfiles(), loadImages(), loadDisks()]).then(() => null, (problem) => problem);
  if (mine !== turn) return;
  if (problem) {
    notice($("banner"), `${problem.message} Trying again…`, "warn");
    // A desktop that runs can be used without knowing what else there is.
    if (alive(me.vm)) show(me.vm);
    else showLoading();
    await new Promise((later) => setTimeout(later, waitBefore(attempt)));
    // How the desktop is by then is asked again.
    return mine === turn ? begin(attempt + 1) : undefined;
  }
  // From top to bottom: nothing that is there already moves.
  show(me.vm ?? null);
  showChosen();
  joinIfStarting();
  hear();
  await looked;
  if (mine !== turn) return;
  $("images").hidden = $("disks").hidden = false;
  await loadHistory();
}

function hear() {
  deafen();
  events = listen({
    onVm: changed,
    onMe: ended,
    onDown: (down) => notice($("banner"), down ? "Connection lost, trying again…" : "", "warn"),
    onUp: resumeUpload,
    onRefused: () => call("GET", "/auth/me").catch(() => null),
  });
}

function deafen() {
  events?.close();
  events = null;
}

/**
 * Asks how the machine on show is now: no stream tells what ended while nobody listened, and one of a server that was started meanwhile begins
 * with what lives.
 */
async function lookAgain(attempt = 0) {
  const [mine, before] = [turn, current()];
  if (!alive(before) || !before.vmid || launching) return;
  const isStill = () => mine === turn && current()?.vmid === before.vmid && alive(current());
  try {
    const answer = await call("GET", `/vms/${before.vmid}`);
    if (isStill()) changed(answer.vm ?? answer);
  } catch (problem) {
    if (problem.status === 404 && isStill()) show(null);
    else if (![401, 404].includes(problem.status)) setTimeout(() => isStill() && lookAgain(attempt + 1), waitBefore(attempt));
  }
}

/** Takes away what is this person's: whoever comes next at this computer must not see it. */
function forget() {
  dropUpload();
  forgetAccount();
  $("history-list").replaceChildren();
  for (const id of ["disk-error", "history-error"]) $(id).textContent = "";
  for (const id of ["disk-name", "snapshot-name"]) $(id).value = $(id).defaultValue;
}

/** Nobody is signed in (any more). What was typed stays where it is. */
function leave(message = "") {
  const was = document.documentElement.dataset.session;
  turn += 1;
  deafen();
  // The session may be over in the middle of it: it goes on when the same person is back.
  if (message) pauseUpload("Paused. Log in again, then resume it.");
  else forget();
  launching = null;
  takeOpening();
  session("out");
  show(null);
  // Whoever logs in next at this computer must not see what was this one's.
  $("images").hidden = $("disks").hidden = $("history").hidden = true;
  for (const dialog of document.querySelectorAll("dialog[open]")) if (dialog.id !== "auth") dialog.close();
  notice($("banner"), message, "warn");
  if (message) openAuth("login", message);
  else if (was === "in") document.querySelector('[data-auth="login"]').focus();
}

function changed(vm) {
  const before = current();
  if (!vm) return void lookAgain();
  // An ended machine is news only if it is the one on show.
  if (!alive(vm) && before && before.vmid && before.vmid !== vm.vmid) return;
  if (!alive(vm) && !before) return;
  show(vm);
  listViewers();
  joinIfStarting();
  if (!alive(vm)) {
    loadHistory();
    // A disk may have come to be, and an image is in use no more.
    Promise.all([loadImages(), loadDisks()]).then(refreshChoice, () => null);
  }
}

/** Posts the wish and stays with it to the end. Whoever clicked in this tab is taken to the desktop; who joins a start chose nothing. */
async function launch(joins = false) {
  if (launching) return;
  const own = (launching = {});
  showLaunchError("");
  if (current()?.state !== "starting") show({ state: "starting" });
  try {
    const answer = await call("POST", "/run-iso", wish(!joins));
    if (launching !== own) return;
    show({ ...current(), state: "running", ...answer.vm });
    if (takeOpening()) open(answer.redirect);
  } catch (problem) {
    if (launching !== own) return;
    // Not reached is also what a reload in between looks like from here: it will join the start.
    if (problem.status !== 0) takeOpening();
    if (!alive(current()) || current().state === "starting") show(null);
    showLaunchError(launchProblem(problem));
    // A disk may have come to be before it failed.
    loadDisks().then(refreshChoice, () => null);
    $("start").focus();
  } finally {
    if (launching === own) launching = null;
  }
}

function open(redirect) {
  const target = new URL(redirect, location.href);
  if (target.origin === location.origin) location.assign(target);
}

function joinIfStarting() {
  if (current()?.state === "starting" && !launching) launch(true);
}

function setOpening() {
  try {
    sessionStorage.setItem(OPENING, "1");
  } catch {
    // The desktop is then opened by hand.
  }
}

function takeOpening() {
  try {
    const was = sessionStorage.getItem(OPENING);
    sessionStorage.removeItem(OPENING);
    return was !== null;
  } catch {
    return false;
  }
}

/** Lists what was, the newest first; what comes `before` is added to it. */
async function loadHistory(before = "") {
  const [mine, list] = [turn, $("history-list")];
  try {
    const answer = await call("GET", `/vms?limit=10${before && `&before=${encodeURIComponent(before)}`}`);
    if (mine !== turn) return;
    const past = answer.vms.filter((vm) => !alive(vm)).map(pastLine);
    if (before) list.append(...past);
    else list.replaceChildren(...past);
    $("history-none").hidden = list.children.length > 0;
    $("history-error").textContent = "";
    $("history-more").textContent = "Show more";
    $("history-more").dataset.before = answer.next ?? "";
    $("history-more").hidden = !answer.next;
    // The button that was pressed has gone.
    if (before && !answer.next) $("past").focus();
  } catch (problem) {
    if (mine !== turn || problem.status === 401) return;
    $("history-error").textContent = problem.message;
    $("history-more").textContent = "Try again";
    $("history-more").hidden = false;
    $("history-more").dataset.before = before;
  }
  $("history").hidden = false;
}

/** What server this is, and whether it knows us: asked first, so that a stranger causes no 401. */
async function about() {
  const version = await call("GET", "/version");
  $("version").textContent = `${version.name} ${version.version}`;
  setSignup(version.signup);
  return version;
}

/** The server knows us no more. That is news only to somebody who was signed in and did not just log out. */
function ended() {
  const news = document.documentElement.dataset.session === "in" && !loggingOut;
  leave(news ? "Your session has ended. Log in again to go on." : "");
}

async function logOut() {
  loggingOut = true;
  try {
    await call("POST", "/auth/logout");
    leave();
  } catch (problem) {
    // Somebody at a shared computer must not believe to be logged out when they are not.
    if (problem.status !== 401) notice($("banner"), `You are still logged in. ${problem.message}`, "bad");
  } finally {
    loggingOut = false;
  }
}

async function begin(attempt = 0) {
  try {
    const { signed_in: known } = await about();
    if (known) await enter(await call("GET", "/auth/me"), attempt);
    else ended();
  } catch (problem) {
    if (problem.status === 401) return;
    notice($("banner"), `${problem.message} Trying again…`, "warn");
    setTimeout(() => begin(attempt), RETRY_MS);
  }
}

// Of several requests that are refused the first one is the news: what it kept stays when the others come.
onSignedOut(() => document.documentElement.dataset.session === "in" && ended());
const invited = setUpAuth(async () => {
  // The answer to a log-in names the user only; limits and a running machine come with /auth/me.
  await begin();
  $("greeting").focus();
});
setUpAccount();
$("log-out").addEventListener("click", logOut);
setUpMachine();
// The button has gone with its bar.
setUpWarning(() => $("warning").hidden && $("vm-open").focus());
setUpShare();
setUpSnapshots();
setUpLauncher();
$("history-more").addEventListener("click", () => loadHistory($("history-more").dataset.before));
setUpDisks(refreshChoice, refreshChoice);
setUpImages(() => loadProfiles().then(showChosen, () => null));
document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && lookAgain());
$("launcher").addEventListener("submit", (event) => {
  event.preventDefault();
  setOpening();
  launch();
});
addEventListener("pageshow", (event) => event.persisted && begin());
begin().then(() => invited && document.documentElement.dataset.session === "out" && openAuth("signup"));
