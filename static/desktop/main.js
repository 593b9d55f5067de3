// The desktop page: the guest's screen in the whole window.
//
// Order matters in one place: a connection that ends for good is explained (veil.js) before
// anything else, and only a lost one is tried again (connection.js).
import { $, badge } from "../shared/dom.js";
import { setUpTrouble, trouble } from "../shared/trouble.js";
import { viewing } from "../shared/viewer.js";
import { setUpWarning, warnOf } from "../shared/warning.js";
import { watching } from "../shared/words.js";
import { otherPage, readAddress, showTools, socketUrl } from "./address.js";
import { RESTARTING, doing, tellTheWay, wayFound } from "./progress.js";
import { closePanels, setUpBar, showBar } from "./bar.js";
import { unwatch, watch } from "./blank.js";
import { keepConnected } from "./connection.js";
import { askAndRestart, askAndStop, epitaph, stillThere } from "./machine.js";
import { received, setUpTools } from "./tools.js";
import { setUpTouchKeys } from "./touch.js";
import * as veil from "./veil.js";
import { apply, passed, setUpView } from "./view.js";

const address = readAddress(location);
let connection = null;
/** The stream of what is new about the machine, or about what a viewer may. */
let news = null;

const rfb = () => (veil.stateNow() === "connected" ? connection?.rfb() : null);
const focusGuest = () => rfb()?.focus({ preventScroll: true });

async function end(why) {
  news?.close();
  doing("");
  $("way").hidden = true;
  unwatch();
  closePanels();
  showBar();
  const [title, text] = await epitaph(why, address ?? {});
  for (const tool of $("bar").querySelectorAll("button, [data-tool]")) tool.hidden = true;
  veil.ended(title, text);
}

function prepare(session) {
  session.viewOnly = address.viewOnly;
  apply(session);
  session.background = "transparent";
  session.addEventListener("clipboard", (event) => received(event.detail.text));
  session.addEventListener("desktopname", (event) => (document.title = `${event.detail.name || "Desktop"}: VM-share`));
}

/** What this person does goes on to the machine, or not. */
function allow(control) {
  address.viewOnly = !control;
  $("terminal-open").href = otherPage(address);
  if (!control) closePanels();
  $("view-only").hidden = control;
  showTools(address);
  const session = rfb();
  if (session) session.viewOnly = !control;
}

/** News of the machine; it may be stopped from elsewhere. */
function told(vm) {
  badge($("watched"), watching(vm?.watched_by));
  if (vm?.state === "stopping") doing("Shutting down…");
}

function connect() {
  connection = keepConnected({
    target: $("screen"),
    url: () => socketUrl(address),
    prepare,
    onBytes: passed,
    onConnecting: veil.connecting,
    onConnected(session, canvas) {
      veil.connected();
      address.cameBefore = true;
      news?.renew?.();
      if (!address.viewOnly) tellTheWay();
      watch(canvas);
      showBar();
      if (!document.activeElement?.closest(".below, dialog, .bar")) session.focus();
    },
    onLost(canvas, nextTry, startsAgain) {
      unwatch();
      veil.lost(canvas, nextTry, startsAgain);
      showBar();
    },
    onEnded: end,
    stillThere: () => stillThere(address),
  });
}

setUpBar(focusGuest, wayFound);
setUpTools(rfb, focusGuest);
setUpView(rfb);
setUpTouchKeys(rfb);
if (address) {
  allow(!address.viewOnly);
  $("retry").addEventListener("click", () => connection.retryNow());
  $("restart-open").addEventListener("click", async () => {
    const problem = await askAndRestart(address, (mode) => {
      doing(RESTARTING[mode]);
      veil.cycling(mode === "power-cycle");
    });
    if (problem) veil.cycling(false);
    doing("");
    trouble(problem);
    focusGuest();
  });
  $("stop-open").addEventListener("click", async () => {
    const problem = await askAndStop(address, () => doing("Shutting down…"));
    if (problem) doing("");
    trouble(problem);
    focusGuest();
  });
  setUpTrouble(focusGuest);
  setUpWarning(focusGuest);
  // Who looks at somebody else's machine gets no news of it but what he may.
  if (address.share || address.watches) news = viewing(address, allow);
  else news = warnOf(address, told);
  connect();
} else {
  end("address");
}
// Another link in the same tab is another desktop.
addEventListener("hashchange", () => location.reload());
