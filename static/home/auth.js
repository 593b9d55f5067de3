// Log in and sign up: one dialog, two tabs (the ARIA tabs pattern with automatic activation).
//
// What was typed stays when the dialog is closed or a request fails; passwords are cleared only
// after they have worked. The browser returns the focus to whatever opened the dialog.
import { call } from "../shared/api.js";
import { $, closable, notice } from "../shared/dom.js";
import { onSubmit } from "./form.js";

const tabs = ["login", "signup"];
// The fields the server names by a code where it does not name them itself.
const FIELD_OF = { email_taken: "email", weak_password: "password", bad_invite: "invite" };

let policy = "open";

function select(name, focus) {
  for (const tab of tabs) {
    const on = tab === name;
    const button = $(`tab-${tab}`);
    button.setAttribute("aria-selected", String(on));
    button.tabIndex = on ? 0 : -1;
    $(`panel-${tab}`).hidden = !on;
    if (on && focus) button.focus();
  }
  // One address is typed once, whichever tab it was typed in.
  const [from, to] = name === "signup" ? ["login-email", "signup-email"] : ["signup-email", "login-email"];
  if (!$(to).value && $(from).value.includes("@")) $(to).value = $(from).value;
}

/** Opens the dialog on a tab (`login` or `signup`), with a message above it if there is one. */
export function openAuth(name, message = "") {
  select(policy === "closed" ? "login" : name, false);
  notice($("auth-message"), message, "warn");
  if (!$("auth").open) $("auth").showModal();
  const form = $(`form-${policy === "closed" ? "login" : name}`);
  (inputsOf(form).find((input) => !input.value) ?? form.elements[0]).focus();
}

function inputsOf(form) {
  return [...form.elements].filter((element) => element.matches("input") && element.offsetParent);
}

/** Says who may sign up here: `open`, `invite` or `closed`. */
export function setSignup(how) {
  policy = how;
  $("invite-field").hidden = how !== "invite";
  $("signup-invite").required = how === "invite";
  $("tab-signup").hidden = how === "closed";
  for (const button of document.querySelectorAll('[data-auth="signup"]')) button.hidden = how === "closed";
  for (const button of document.querySelectorAll('[data-auth="login"]')) button.classList.toggle("btn-main", how === "closed");
  notice($("signup-note"), { invite: "You need an invitation code to sign up.", closed: "New accounts are made by whoever runs this server." }[how]);
  if (how === "closed") select("login", false);
}

/** Wires the dialog. `enter` is called with the answer once somebody is signed in. */
export function setUpAuth(enter) {
  closable($("auth"));
  for (const button of document.querySelectorAll("[data-auth]")) button.addEventListener("click", () => openAuth(button.dataset.auth));
  $("auth").querySelector('[role="tablist"]').addEventListener("keydown", (event) => {
    const now = tabs.findIndex((tab) => $(`tab-${tab}`).getAttribute("aria-selected") === "true");
    const next = { ArrowRight: now + 1, ArrowLeft: now - 1, Home: 0, End: tabs.length - 1 }[event.key];
    if (next === undefined || policy === "closed") return;
    event.preventDefault();
    select(tabs[(next + tabs.length) % tabs.length], true);
  });
  for (const tab of tabs) {
    $(`tab-${tab}`).addEventListener("click", () => select(tab, false));
    onSubmit($(`form-${tab}`), async (values) => {
      if (policy !== "invite") delete values.invite;
      const answer = await call("POST", `/auth/${tab}`, values).catch((problem) => {
        problem.field ||= FIELD_OF[problem.code] ?? "";
        if (problem.code === "bad_credentials") problem.message += " Forgotten your password? Whoever runs this server can give you another.";
        throw problem;
      });
      for (const form of [$("form-login"), $("form-signup")]) form.elements.password.value = "";
      $("auth").close();
      enter(answer);
    });
  }
  // An invitation link carries its code in the fragment, which is never sent to a server or a log.
  const invite = new URLSearchParams(location.hash.slice(1)).get("invite");
  if (invite) {
    $("signup-invite").value = invite;
    history.replaceState(null, "", location.pathname);
  }
  return Boolean(invite);
}
