// What the page's address may say, and nothing else: which console, which machine, looking only.
//
// `path` comes from a link anybody can make up, so it is never used as it is: it must be a
// console's path on this very server.

/** Reads `?path=ws/6111&vmid=…&view=1`, or `?path=ws/6111/serial` where that is `wanted`; null when the path is no such console's. */
export function readAddress(search, wanted = "") {
  const query = new URLSearchParams(search);
  const [, port, console] = /^ws\/(\d{1,5})(?:\/(serial))?$/.exec(query.get("path") ?? "") ?? [];
  if (!port || (console ?? "") !== wanted || Number(port) < 1 || Number(port) > 65535) return null;
  const vmid = query.get("vmid") ?? "";
  return { port: Number(port), vmid: /^[0-9a-f]{12}$/.test(vmid) ? vmid : null, viewOnly: query.get("view") === "1" };
}

/** The websocket's address on the server this page came from. */
export function socketUrl(port, console = "") {
  const url = new URL(console ? `/ws/${port}/${console}` : `/ws/${port}`, location.href);
  url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  return url.href;
}
