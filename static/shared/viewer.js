// News for somebody who looks at a machine that is not his: what he may, as it changes.
import { asGuest } from "../desktop/address.js";
import { $, badge } from "./dom.js";
import { stream } from "./stream.js";

/**
 * Listens at a console's address until `close()` of what it returns is called; `onControl(true)` when what he does goes on to the machine from
 * now on. Control that was given ends with the last screen, also where that comes again: `renew()` asks what he may now.
 */
export function viewing({ port, share, control }, onControl) {
  const url = new URL(`/ws/${port}/events`, location.href);
  if (share) asGuest(url, share);
  if (control) url.searchParams.set("control", "1");
  const news = stream(url, {
    viewer(event) {
      const what = JSON.parse(event.data);
      if (!what) return news.close();
      // What the owner's list calls him: several may have come by one link.
      badge($("guest"), what.kind === "link" && what.id ? `Guest ${what.id}` : "");
      onControl(what.control);
    },
    me: () => news.close(),
  });
  return news;
}
