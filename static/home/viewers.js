// Who looks at the running desktop besides its owner, in the dialog about sharing: control is given
// and taken here, and screens are closed.
import { call, serverNow } from "../shared/api.js";
import { $, make, sure } from "../shared/dom.js";
import { exactly, span } from "../shared/words.js";
import { current } from "./machine.js";

const KINDS = { teacher: "Teacher", admin: "Administrator" };

/** Each machine, and each server, counts its viewers from 1: a number alone is nobody. */
const whoIs = ({ id, kind, name, since }) => JSON.stringify([id, kind, name, since]);

const look = async (vmid) => ((await call("GET", `/connections/${vmid}`)).who ?? []).filter((viewer) => viewer.kind !== "owner");

async function act(method, vmid, viewer, body) {
  try {
    // Another server may have given his number to somebody else since he was listed.
    const isStill = (await look(vmid)).some((other) => whoIs(other) === whoIs(viewer));
    if (isStill) await call(method, `/vms/${vmid}/viewers/${viewer.id}`, body);
  } catch (problem) {
    // Gone already is as good.
    if (problem.status !== 404) $("share-error").textContent = problem.message;
  }
  await listViewers();
}

function line(vmid, viewer) {
  const who = viewer.kind === "link" ? `Guest ${viewer.id}` : `${KINDS[viewer.kind] ?? ""} ${viewer.name}`;
  const what = viewer.control ? "has control" : "looks";
  const give = make("button", { type: "button", class: "btn", "aria-label": `${viewer.control ? "Take control from" : "Give control to"} ${who}` }, viewer.control ? "Take control" : "Give control");
  give.addEventListener("click", () => act("POST", vmid, viewer, { control: !viewer.control }));
  const close = make("button", { type: "button", class: "btn", "aria-label": `Close the screen of ${who}` }, "Close");
  close.addEventListener("click", async () => {
    if (await sure({ title: `Close the screen of ${who}?`, loss: viewer.kind === "link" ? "Whoever it is may come again as long as the link works; revoke the link to end that." : "Your desktop goes on. They may come again.", yes: "Close it" })) await act("DELETE", vmid, viewer);
  });
  const since = make("span", { class: "hint", title: `Since ${exactly(viewer.since)}` }, `for ${span(Math.max(0, serverNow() - Date.parse(viewer.since)))}`);
  return make("li", { class: "py-2 flex flex-wrap items-center gap-2", "data-who": whoIs(viewer) }, make("span", { class: "w-full wrap-anywhere" }, `${who} ${what}, `, since), give, close);
}

/** Asks who looks, and shows it. */
export async function listViewers() {
  const vm = current();
  if (!vm || !$("share").open) return;
  const others = await look(vm.vmid).catch(() => []);
  // A button that is being pressed stays where it is.
  const drawn = JSON.stringify([vm.vmid, ...others.map((viewer) => [whoIs(viewer), viewer.control])]);
  if (drawn === $("viewer-list").dataset.drawn && others.length) return;
  $("viewer-list").dataset.drawn = drawn;
  const focused = document.activeElement?.closest("#viewer-list li");
  const at = focused ? [...focused.querySelectorAll("button")].indexOf(document.activeElement) : -1;
  $("viewer-some").hidden = others.length === 0;
  $("viewer-list").replaceChildren(...others.map((viewer) => line(vm.vmid, viewer)));
  // The button that was pressed has been drawn anew; that of somebody else is not meant.
  const same = focused && [...$("viewer-list").children].find((item) => item.dataset.who === focused.dataset.who);
  if (focused) (same?.querySelectorAll("button")[at] ?? $("share-make")).focus();
}
