// What the page's address may say, and nothing else: which console, which machine, looking only.
//
// `path` comes from a link anybody can make up, so it is never used as it is: it must be a
// console's path on this very server.
import { memory } from "../shared/dom.js";

/**
 * Reads `?path=ws/6111&vmid=…&view=1`, or `?path=ws/6111/serial` where that is `wanted`; null when the path is no such console's.
 * A link's token stands behind `#`, where no server and no log sees it.
 */
export function readAddress({ search, hash }, wanted = "") {
  const query = new URLSearchParams(search);
  const [, port, console] = /^ws\/(\d{1,5})(?:\/(serial))?$/.exec(query.get("path") ?? "") ?? [];
  if (!port || (console ?? "") !== wanted || Number(port) < 1 || Number(port) > 65535) return null;
  const vmid = query.get("vmid") ?? "";
  const share = /^#share=([\w-]{16,128})$/.exec(hash)?.[1] ?? null;
  return { port: Number(port), console: wanted, vmid: /^[0-9a-f]{12}$/.test(vmid) ? vmid : null, viewOnly: query.get("view") === "1", control: query.get("control") === "1", share, watches: query.has("view") || query.has("control") };
}

/** What comes by a link says so, and which browser it is: each one can be given control alone. */
export function asGuest(url, share) {
  url.searchParams.set("share", share);
  url.searchParams.set("guest", guest());
}

/** Names this browser to the server, which tells nobody; one that forbids storage has another name on each page. */
let name;
function guest() {
  name ??= memory.get("guest");
  if (!/^[0-9a-f]{32}$/.test(name ?? "")) {
    name = Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
    memory.set("guest", name);
  }
  return name;
}

/** The console's address on the server this page came from. Who comes again does not ask anew for control, which may have been taken from him. */
export function consoleUrl({ port, console, share, control, cameBefore }) {
  const url = new URL(console ? `/ws/${port}/${console}` : `/ws/${port}`, location.href);
  if (share) asGuest(url, share);
  if (control) url.searchParams.set("control", cameBefore ? "kept" : "1");
  return url;
}

/** The same for a websocket. */
export function socketUrl(address) {
  const url = consoleUrl(address);
  url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  return url.href;
}

/** Control was taken from who had asked for it: neither a reload nor the other console's page asks for it again. */
export function askNoMore(address) {
  address.control = false;
  const url = new URL(location.href);
  url.searchParams.delete("control");
  url.searchParams.set("view", "1");
  history.replaceState(null, "", url);
}

/** The page of the machine's other console, for the same person: who looks at somebody else's goes on doing so, whatever he may meanwhile. */
export function otherPage({ port, console, vmid, viewOnly, control, share, watches }) {
  const looks = viewOnly || (watches && !control);
  const query = new URLSearchParams({ path: console ? `ws/${port}` : `ws/${port}/serial`, ...(vmid && { vmid }), ...(looks && { view: "1" }), ...(control && { control: "1" }) });
  return `${console ? "/novnc/" : "/terminal/"}?${query}${share ? `#share=${share}` : ""}`;
}

/** Takes away what this person may not do, or gives it back: with a link there is no account, and who only looks touches nothing. */
export function showTools({ viewOnly, share }) {
  for (const tool of document.querySelectorAll("[data-control]")) tool.toggleAttribute("data-barred", viewOnly);
  if (viewOnly || share) for (const tool of document.querySelectorAll("[data-owner]")) tool.hidden = true;
}
