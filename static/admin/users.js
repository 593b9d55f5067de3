// People: roles, quotas, disabling, other passwords.
import { call } from "../shared/api.js";
import { $, idButton, make, sure } from "../shared/dom.js";
import { when } from "../shared/when.js";
import { pages, tellSecret } from "./rows.js";

/** GB on the disks of this server by login name; nothing where that is not measured. */
let stored = new Map();

const ROLES = ["user", "teacher", "admin"];

async function change(user, body, after) {
  $("users-error").textContent = "";
  try {
    const answer = await call("POST", `/admin/users/${user.id}`, body);
    Object.assign(user, answer.user);
  } catch (problem) {
    $("users-error").textContent = `${user.login}: ${problem.message}`;
  }
  after();
}

function roleChoice(user, mine, redraw) {
  const choice = make("select", { class: "input w-auto", "aria-label": `Role of ${user.login}`, disabled: mine, title: mine && "Nobody takes his own rights away." });
  for (const role of ROLES) choice.append(make("option", { value: role, selected: role === user.role }, role));
  choice.addEventListener("change", async () => {
    const role = choice.value;
    const less = ROLES.indexOf(role) < ROLES.indexOf(user.role);
    const loss = less ? `${user.login} loses the rights of ${user.role} and is signed out everywhere; open desktops close.` : `${user.login} gets the rights of ${role} at once${role === "admin" ? ": to see and end every desktop, and to change every account" : ""}.`;
    if (await sure({ title: `Make ${user.login} ${role}?`, loss, yes: `Make ${role}` })) return change(user, { role }, redraw);
    choice.value = user.role;
  });
  return choice;
}

function quotaField(user, redraw) {
  const field = make("input", { class: "input w-28", type: "number", min: "1", max: "1048576", placeholder: "default", value: user.quota_gb ?? "", "aria-label": `Quota of ${user.login} in GB; empty for the default` });
  field.addEventListener("change", () => {
    // What is no number reads as empty, and empty means the default.
    if (field.validity.valid) return change(user, { quota_gb: Number(field.value) || 0 }, redraw);
    $("users-error").textContent = `${user.login}: the quota is a whole number of GB from 1 to 1048576, or empty for the default.`;
  });
  return make("span", { class: "flex items-center gap-2" }, make("span", { class: "hint", "aria-hidden": "true" }, "Quota"), field, make("span", { class: "hint" }, "GB"));
}

function disableButton(user, mine, redraw) {
  const button = make("button", { type: "button", class: "btn", disabled: mine, "aria-label": `${user.disabled ? "Enable" : "Disable"} ${user.login}` }, user.disabled ? "Enable" : "Disable");
  button.addEventListener("click", async () => {
    const loss = `${user.login} is signed out everywhere and cannot sign in until enabled again; open desktops close and the links ${user.login} made end. Files and a running desktop stay.`;
    if (user.disabled || (await sure({ title: `Disable ${user.login}?`, loss, yes: "Disable" }))) change(user, { disabled: !user.disabled }, redraw);
  });
  return button;
}

function passwordButton(user, mine) {
  const button = make("button", { type: "button", class: "btn", disabled: mine, "aria-label": `New password for ${user.login}` }, "New password");
  button.addEventListener("click", async () => {
    if (!(await sure({ title: `New password for ${user.login}?`, loss: `The old password is of no use any more, and ${user.login} is signed out everywhere.`, yes: "New password" }))) return;
    $("users-error").textContent = "";
    try {
      const { password } = await call("POST", `/admin/users/${user.id}/password`, {});
      await tellSecret({ title: `New password for ${user.login}`, label: "Password", text: password, hint: "It is shown only now. Tell it to nobody else." });
    } catch (problem) {
      $("users-error").textContent = `${user.login}: ${problem.message}`;
    }
  });
  return button;
}

function line(user, me) {
  const mine = user.id === me.id;
  const item = make("li", { class: "py-3 flex flex-wrap gap-x-4 gap-y-2 items-center" });
  const draw = () => {
    const name = make("span", { class: "mr-auto min-w-0 basis-72 grow" }, make("span", { class: "font-semibold wrap-anywhere" }, user.login), mine ? " (you)" : "");
    if (user.disabled) name.append(" ", make("span", { class: "badge", "data-kind": "bad" }, "Disabled"));
    const about = make("span", { class: "hint block wrap-anywhere" }, user.email === user.login ? "" : `${user.email}, `, user.last_seen ? "last seen " : "never seen", ...(user.last_seen ? [when(user.last_seen)] : []));
    if (stored.size) about.append(", ", make("span", { class: "whitespace-nowrap tabular-nums" }, storedBy(user)));
    if (user.vmid) about.append(", desktop ", idButton(user.vmid));
    name.append(about);
    item.replaceChildren(name, roleChoice(user, mine, redraw), quotaField(user, redraw), disableButton(user, mine, redraw), passwordButton(user, mine));
  };
  // The same control has the focus after it was drawn anew.
  const redraw = () => {
    const at = [...item.querySelectorAll("select, input, button")].indexOf(document.activeElement);
    draw();
    if (at >= 0) [...item.querySelectorAll("select, input, button")][at]?.focus();
  };
  draw();
  return item;
}

/** What he keeps of images, uploads and disks, or nothing; the quota beside it is of each kind, and of disks by the size a guest sees. */
function storedBy(user) {
  if (!stored.size) return "";
  return `${Number((stored.get(user.login) ?? 0).toFixed(1))} GB stored`;
}

async function measure() {
  const answer = await call("GET", "/admin/load").catch(() => null);
  if (answer) stored = new Map(answer.storage.map(({ user, gb }) => [user, gb]));
}

/** The section; `me` is who looks. */
export const users = (me) => pages({ name: "users", path: "/admin/users", rows: (answer) => answer.users, line: (user) => line(user, me), prepare: measure, empty: "Nobody has an account yet. Invite your class under Invitations." });
