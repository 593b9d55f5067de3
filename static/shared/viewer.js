// News for somebody who looks at a machine that is not his: what he may, as it changes.
//
// The stream is the browser's own to reconnect. One that is refused is not asked for again: the
// console itself says why, and its page shows that.

/** Listens at a console's address; `onControl(true)` when what he does goes on to the machine from now on. */
export function viewing({ port, share, control }, onControl) {
  const url = new URL(`/ws/${port}/events`, location.href);
  if (share) url.searchParams.set("share", share);
  if (control) url.searchParams.set("control", "1");
  const source = new EventSource(url);
  source.addEventListener("viewer", (event) => {
    const what = JSON.parse(event.data);
    if (what) onControl(what.control);
    else source.close();
  });
  source.addEventListener("me", () => source.close());
}
