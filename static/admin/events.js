// What happened: connections, alerts, the audit trail.
import { call } from "../shared/api.js";
import { $, idButton, make } from "../shared/dom.js";
import { when } from "../shared/when.js";
import { bytes } from "../shared/words.js";
import { pages } from "./rows.js";

const EVERY_MS = 10_000;
const COUNT_MS = 30_000;
const CONSOLES = { vnc: "desktop", serial: "terminal" };

function row(words, ...rest) {
  const line = make("li", { class: "py-3 flex flex-wrap gap-x-4 gap-y-1 items-baseline" }, make("span", { class: "mr-auto min-w-0 wrap-anywhere" }, ...words));
  line.append(...rest);
  return line;
}

const strong = (text) => make("span", { class: "font-semibold" }, text);
const isId = (text) => /^[0-9a-f]{12}$/.test(text);
const hint = (...parts) => make("span", { class: "hint min-w-0 wrap-anywhere" }, ...parts);

function connectionLine(event) {
  const who = event.user ?? "Somebody with a link";
  const what = event.kind === "connect" ? " opened a " : " left a ";
  const passed = event.kind === "disconnect" ? `, ${bytes(event.bytes_to_browser)} seen${event.reason ? `, ${event.reason}` : ""}` : "";
  return row([strong(who), `${what}${CONSOLES[event.console] ?? event.console}`, hint(` from ${event.ip}${passed}`)], hint(idButton(event.vmid)), hint(when(event.at)));
}

/** Recent connections. */
export const connections = () =>
  pages({ name: "connections", path: "/connections", rows: (answer) => answer.events, line: connectionLine, every: EVERY_MS, empty: "Nobody has opened a desktop yet. When somebody does, it is listed here." });

function alertLine(alert) {
  const badge = make("span", { class: "badge", "data-kind": alert.ended ? "" : "bad" }, alert.ended ? "Over" : "Now");
  const over = Number.isFinite(alert.value) ? ` (${Math.round(alert.value)}, limit ${alert.threshold})` : "";
  // The text is that of the message: what, when, who and what follows, a line each.
  const words = make("span", { class: "whitespace-pre-line" }, isId(alert.subject) ? idButton(alert.subject) : strong(alert.subject || alert.rule), ` ${alert.text ?? ""}${alert.text ? "" : over}`);
  return row([words], badge, hint("since ", when(alert.since)), ...(alert.ended ? [hint("until ", when(alert.ended))] : []));
}

/** What is, and was, over its limit. */
export const alerts = () =>
  pages({
    name: "alerts", path: "/admin/alerts", rows: (answer) => answer.alerts, line: alertLine, every: EVERY_MS,
    empty: "No alerts: nothing has been over its limit. The limits are in [alerts] of the settings.",
    absent: "This server does not watch its host yet, so there are no alerts.",
  });

/** Says on the tab how much is over its limit now, and goes on doing so. */
export async function countAlerts() {
  let timer;
  const count = async () => {
    if (document.visibilityState !== "visible") return true;
    const answer = await call("GET", "/admin/alerts?limit=100").catch((problem) => ([401, 404].includes(problem.status) ? null : {}));
    const now = answer?.alerts?.filter((alert) => !alert.ended).length;
    if (now !== undefined) $("alerts-now").textContent = now ? ` (${now})` : "";
    // Nobody is asked any more for who is signed out.
    if (!answer) clearInterval(timer);
    return answer;
  };
  // A server that does not watch its host has none, also later.
  if (!(await count())) return;
  timer = setInterval(count, COUNT_MS);
}

function auditLine(line) {
  return row([strong(line.user ?? "Nobody known"), ` ${line.action} `, isId(line.target) ? idButton(line.target) : strong(line.target), hint(line.detail ? ` ${line.detail}` : "", ` from ${line.ip}`)], hint(when(line.at)));
}

/** Who did what. */
export const audit = () =>
  pages({ name: "audit", path: "/admin/audit", rows: (answer) => answer.audit, line: auditLine, empty: "Nothing has been done yet. Log-ins and every change by an administrator are listed here." });
