// What the three forms share: errors beside the field, one submission at a time, values never lost.
import { Problem } from "../shared/api.js";

function say(form, name, text) {
  const input = form.elements[name];
  document.getElementById(`${input.id}-error`).textContent = text;
  if (text) input.setAttribute("aria-invalid", "true");
  else input.removeAttribute("aria-invalid");
}

function inputs(form) {
  return [...form.elements].filter((input) => input.name && document.getElementById(`${input.id}-error`));
}

/** Takes every error away. */
export function clearErrors(form) {
  for (const input of inputs(form)) say(form, input.name, "");
  form.querySelector("[data-form-error]").textContent = "";
}

/** Shows the problem beside the field it names, or above the button, and goes there. */
export function showProblem(form, problem) {
  const named = inputs(form).find((input) => input.name === problem.field && input.offsetParent);
  if (!named) {
    form.querySelector("[data-form-error]").textContent = problem.message;
    return;
  }
  say(form, named.name, problem.message);
  named.focus();
}

/** The first thing the browser itself can see is wrong, or null. */
function firstFault(form) {
  for (const input of inputs(form)) {
    if (!input.offsetParent) continue;
    const label = form.querySelector(`label[for="${input.id}"]`).textContent.toLowerCase();
    if (input.required && !input.value) return new Problem(422, { field: input.name, detail: `Enter the ${label}.` });
    if (input.validity.typeMismatch) return new Problem(422, { field: input.name, detail: "This is not an email address: it looks like name@example.org." });
    const least = Number(input.getAttribute("minlength"));
    if (least && [...input.value].length < least) return new Problem(422, { field: input.name, detail: `Use at least ${least} characters.` });
  }
  return null;
}

/** Runs `send` with the form's values when it is submitted; what it throws is shown in the form. */
export function onSubmit(form, send) {
  const button = form.querySelector("button.btn-main");
  form.addEventListener("input", (event) => event.target.name && inputs(form).includes(event.target) && say(form, event.target.name, ""));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (button.getAttribute("aria-disabled") === "true") return;
    clearErrors(form);
    const fault = firstFault(form);
    if (fault) return showProblem(form, fault);
    // Not `disabled`: the focus would be lost and a screen reader would fall silent.
    button.setAttribute("aria-disabled", "true");
    try {
      await send(Object.fromEntries(new FormData(form)));
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      showProblem(form, problem);
    } finally {
      button.removeAttribute("aria-disabled");
    }
  });
}
