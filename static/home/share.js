// The dialog that makes links to the running desktop, lists those there are, and revokes them.
//
// A link is shown once, when it is made: the server itself does not know it any more after that.
import { call, serverNow } from "../shared/api.js";
import { $, closable, copies, make, sure } from "../shared/dom.js";
import { exactly, span } from "../shared/words.js";
import { current } from "./machine.js";
import { listViewers } from "./viewers.js";

const path = () => `/vms/${current()?.vmid}/shares`;

function line(share) {
  const what = share.control ? "May use it" : "May look";
  const left = span(Math.max(0, Date.parse(share.expires_at) - serverNow())).replace(/ 0 (s|min|h)$/, "");
  const revoke = make("button", { type: "button", class: "btn", "aria-label": `Revoke the link that ${share.control ? "may use it" : "may look"}, ${left} left` }, "Revoke");
  revoke.addEventListener("click", async () => {
    if (!(await sure({ title: "Revoke this link?", loss: "Nobody can use it any more, and what is open with it closes.", yes: "Revoke" }))) return;
    revoke.disabled = true;
    // Gone already is as good.
    await call("DELETE", `${path()}/${share.id}`).catch((problem) => problem.status !== 404 && tell(problem.message));
    await list();
    $("share-make").focus();
  });
  return make("li", { class: "py-2 flex items-center gap-3" }, make("span", { class: "mr-auto", title: `Until ${exactly(share.expires_at)}` }, `${what}, ${left} left${share.viewers ? `, ${share.viewers} open` : ""}`), revoke);
}

function tell(text) {
  $("share-error").textContent = text;
}

async function list() {
  const answer = await call("GET", path()).catch((problem) => (tell(problem.message), null));
  if (!answer) return;
  $("share-some").hidden = answer.shares.length === 0;
  $("share-list").replaceChildren(...answer.shares.map(line));
}

async function create() {
  if ($("share-make").ariaDisabled) return;
  tell("");
  // Not disabled: that would take the focus away.
  $("share-make").ariaDisabled = "true";
  try {
    const control = $("share-form").elements.control.value === "yes";
    const { share } = await call("POST", path(), { control, minutes: Number($("share-minutes").value) });
    $("share-link").value = new URL(share.url, location.href).href;
    $("share-new").hidden = false;
    $("share-link").select();
    await list();
  } catch (problem) {
    tell(problem.message);
  } finally {
    $("share-make").ariaDisabled = null;
  }
}

/** Wires the button and the dialog. */
export function setUpShare() {
  const dialog = $("share");
  closable(dialog);
  $("vm-share").addEventListener("click", () => {
    tell("");
    $("share-new").hidden = true;
    $("share-link").value = "";
    $("share-some").hidden = true;
    dialog.showModal();
    list();
    listViewers();
  });
  $("share-form").addEventListener("submit", (event) => {
    event.preventDefault();
    create();
  });
  copies($("share-copy"), () => $("share-link").value, $("share-link"));
}
