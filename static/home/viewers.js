// Who looks at the running desktop besides its owner, in the dialog about sharing: control is given
// and taken here, and screens are closed.
import { call, serverNow } from "../shared/api.js";
import { $, make, sure } from "../shared/dom.js";
import { exactly, span } from "../shared/words.js";
import { current } from "./machine.js";

const KINDS = { teacher: "Teacher", admin: "Administrator" };

async function act(method, viewer, body) {
  const where = `/vms/${current()?.vmid}/viewers/${viewer.id}`;
  // Gone already is as good.
  await call(method, where, body).catch((problem) => problem.status !== 404 && ($("share-error").textContent = problem.message));
  await listViewers();
}

function line(viewer) {
  const who = viewer.kind === "link" ? `Guest ${viewer.id}` : `${KINDS[viewer.kind] ?? ""} ${viewer.name}`;
  const what = viewer.control ? "has control" : "looks";
  const give = make("button", { type: "button", class: "btn", "aria-label": `${viewer.control ? "Take control from" : "Give control to"} ${who}` }, viewer.control ? "Take control" : "Give control");
  give.addEventListener("click", () => act("POST", viewer, { control: !viewer.control }));
  const close = make("button", { type: "button", class: "btn", "aria-label": `Close the screen of ${who}` }, "Close");
  close.addEventListener("click", async () => {
    if (await sure({ title: `Close the screen of ${who}?`, loss: viewer.kind === "link" ? "Whoever it is may come again as long as the link works; revoke the link to end that." : "Your desktop goes on. They may come again.", yes: "Close it" })) await act("DELETE", viewer);
  });
  const since = make("span", { class: "hint", title: `Since ${exactly(viewer.since)}` }, `for ${span(Math.max(0, serverNow() - Date.parse(viewer.since)))}`);
  return make("li", { class: "py-2 flex flex-wrap items-center gap-2" }, make("span", { class: "w-full wrap-anywhere" }, `${who} ${what}, `, since), give, close);
}

/** Asks who looks, and shows it. */
export async function listViewers() {
  const vm = current();
  if (!vm || !$("share").open) return;
  const answer = await call("GET", `/connections/${vm.vmid}`).catch(() => null);
  const others = (answer?.who ?? []).filter((viewer) => viewer.kind !== "owner");
  // A button that is being pressed stays where it is.
  const drawn = JSON.stringify(others.map(({ id, control }) => [id, control]));
  if (drawn === $("viewer-list").dataset.drawn && others.length) return;
  $("viewer-list").dataset.drawn = drawn;
  const focused = document.activeElement?.closest("#viewer-list");
  $("viewer-some").hidden = others.length === 0;
  $("viewer-list").replaceChildren(...others.map(line));
  // The button that was pressed has been drawn anew.
  if (focused) ($("viewer-list").querySelector("button") ?? $("share-make")).focus();
}
