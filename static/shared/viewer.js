// News for somebody who looks at a machine that is not his: what he may, as it changes, and that it ends soon.
import { asGuest, askNoMore } from "../desktop/address.js";
import { $, badge } from "./dom.js";
import { stream } from "./stream.js";
import { warn } from "./warning.js";

/**
 * Listens at a console's address until `close()` of what it returns is called; `onControl(true)` when what he does goes on to the machine from
 * now on. Control that was given ends with the last screen, also where that comes again: `renew()` asks what he may now.
 */
export function viewing(address, onControl) {
  const { port, share, control } = address;
  let had = false;
  const url = new URL(`/ws/${port}/events`, location.href);
  if (share) asGuest(url, share);
  if (control) url.searchParams.set("control", "1");
  const over = () => {
    news.close();
    warn(null);
  };
  const news = stream(url, {
    viewer(event) {
      const what = JSON.parse(event.data);
      if (!what) return over();
      // What the owner's list calls him: several may have come by one link.
      badge($("guest"), what.kind === "link" && what.id ? `Guest ${what.id}` : "");
      if (had && !what.control && address.control) {
        askNoMore(address);
        url.searchParams.delete("control");
      }
      had = what.control;
      onControl(what.control);
      const { expires_at, expires_because, expires_soon } = what;
      warn({ state: "running", foreign: true, expires_at, expires_because, expires_soon });
    },
    me: over,
  });
  return { renew: news.renew, close: over };
}
