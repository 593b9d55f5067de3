// Invitations: a link for a class, told once.
import { call, serverNow } from "../shared/api.js";
import { $, make, notice, sure } from "../shared/dom.js";
import { when } from "../shared/when.js";
import { exactly, span } from "../shared/words.js";
import { pages, tellSecret } from "./rows.js";

const POLICY = {
  open: "Sign-up is open on this server: everybody may make an account without an invitation, as a user. With signup = \"invite\" in the settings only invited people can.",
  invite: "Only invited people can sign up on this server.",
  closed: "Sign-up is closed on this server, also with an invitation. Set signup = \"invite\" in the settings to invite people.",
};

/** The section; `signup` is who may make an account. */
export function invites(signup) {
  const line = (invite) => {
    const name = invite.note || "No note";
    const left = span(Math.max(0, Date.parse(invite.expires_at) - serverNow()));
    const words = make("span", { class: "mr-auto min-w-0" }, make("span", { class: "font-semibold wrap-anywhere" }, name));
    const about = make("span", { class: "hint block wrap-anywhere" }, `${invite.uses_left} of ${invite.uses} left, as ${invite.role}, made ${invite.created_by ? `by ${invite.created_by} ` : ""}`, when(invite.created_at), ", ");
    about.append(make("span", { title: `Until ${exactly(invite.expires_at)}` }, `ends in ${left}`));
    words.append(about);
    const back = make("button", { type: "button", class: "btn", "aria-label": `Take back: ${name}` }, "Take back");
    back.addEventListener("click", async () => {
      if (!(await sure({ title: "Take this invitation back?", loss: `Nobody can sign up with “${name}” any more; ${invite.uses_left} places are lost. Accounts that were made with it stay.`, yes: "Take back" }))) return;
      await call("DELETE", `/admin/invites/${invite.id}`).catch((problem) => problem.status !== 404 && ($("invites-error").textContent = problem.message));
      await list.open();
      $("invite-note").focus();
    });
    return make("li", { class: "py-3 flex flex-wrap gap-x-4 gap-y-2 items-center" }, words, back);
  };
  const filter = () => {
    const words = $("invites-filter").value.trim().toLowerCase().split(/\s+/);
    const all = [...$("invites-list").children];
    for (const one of all) one.hidden = !words.every((word) => one.textContent.toLowerCase().includes(word));
    notice($("invites-not"), all.length && all.every((one) => one.hidden) ? "No invitation has these words. Try fewer." : "");
  };
  $("invites-filter").addEventListener("input", filter);
  const list = pages({ name: "invites", path: "/admin/invites", rows: (answer) => answer.invites, line, drawn: filter, empty: "None yet. Make one above, and give its link to your class." });
  $("invites-policy").textContent = POLICY[signup] ?? "";
  $("invite-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    if ($("invite-make").ariaDisabled) return;
    $("invites-error").textContent = "";
    $("invite-make").setAttribute("aria-disabled", "true");
    try {
      const { note, role, uses, days } = Object.fromEntries(new FormData($("invite-form")));
      const { invite } = await call("POST", "/admin/invites", { note, role, uses: Number(uses), days: Number(days) });
      await list.open();
      await tellSecret({ title: "Your invitation", label: "Link", text: `${location.origin}/#invite=${invite.code}`, hint: "It is shown only now. Whoever has it can sign up." });
    } catch (problem) {
      $("invites-error").textContent = problem.message;
    } finally {
      $("invite-make").removeAttribute("aria-disabled");
    }
  });
  return list;
}
