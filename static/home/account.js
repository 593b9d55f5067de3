// Who is signed in: name and change of password.
import { call } from "../shared/api.js";
import { $, closable } from "../shared/dom.js";
import { clearErrors, onSubmit } from "./form.js";

/** Shows who is signed in. */
export function showAccount(user) {
  const name = user.login || user.email;
  $("account-name").textContent = name;
  $("account-who").textContent = user.login && user.login !== user.email ? `${user.login}, ${user.email}` : user.email;
  $("password-user").value = user.email;
  $("admin-open").hidden = !["teacher", "admin"].includes(user.role);
  $("admin-open").textContent = user.role === "teacher" ? "Class" : "Admin";
}

/** Takes away what was typed. */
export function forgetAccount() {
  $("password-form").reset();
  clearErrors($("password-form"));
}

/** Wires the dialog. */
export function setUpAccount() {
  const form = $("password-form");
  closable($("account"));
  $("account-open").addEventListener("click", () => {
    clearErrors(form);
    $("password-done").hidden = true;
    $("account").showModal();
    $("password-current").focus();
  });
  onSubmit(form, async (values) => {
    $("password-done").hidden = true;
    await call("POST", "/auth/password", { current: values.current, new: values.new }).catch((problem) => {
      if (problem.code === "bad_credentials") problem.field = "current";
      if (problem.code === "weak_password") problem.field = "new";
      throw problem;
    });
    form.elements.current.value = "";
    form.elements.new.value = "";
    $("password-done").hidden = false;
  });
}
