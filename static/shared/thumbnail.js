// A small picture of what a machine shows, looked at again and again while somebody can see it: the page is in front and the picture on
// the screen. A look that fails leaves the last picture where it is.

import { refused } from "./api.js";

const WIDTH = 320;

/**
 * Keeps `image` showing a machine; `show(vmid)` says which, null for none, `end()` lets go of it. `every` is the time between two looks in
 * milliseconds.
 */
export function thumbnail(image, { every }) {
  let vmid = null;
  let near = false;
  let busy = false;
  let timer;
  let address = "";

  const put = (picture) => {
    if (address) URL.revokeObjectURL(address);
    address = picture ? URL.createObjectURL(picture) : "";
    image.hidden = !picture;
    if (picture) image.src = address;
    else image.removeAttribute("src");
  };
  const look = async () => {
    clearTimeout(timer);
    if (!vmid || !near || busy || document.visibilityState !== "visible") return;
    busy = true;
    const of = vmid;
    const answer = await fetch(`/vms/${of}/screen.png?w=${WIDTH}`, { cache: "no-cache" }).catch(() => null);
    const picture = answer?.ok ? await answer.blob().catch(() => null) : null;
    busy = false;
    if (answer?.status === 401) refused();
    if (picture && of === vmid) put(picture);
    timer = setTimeout(look, of === vmid ? every : 0);
  };
  const watcher = new IntersectionObserver((entries) => {
    near = entries.at(-1).isIntersecting;
    look();
  });
  // The image itself has no box while it is hidden.
  watcher.observe(image.parentElement);
  document.addEventListener("visibilitychange", look);
  return {
    show(id) {
      if (id === vmid) return;
      vmid = id;
      put(null);
      look();
    },
    end() {
      vmid = null;
      put(null);
      clearTimeout(timer);
      watcher.disconnect();
      document.removeEventListener("visibilitychange", look);
    },
  };
}
