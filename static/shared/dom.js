// The few things every page does to the document. Text is always set as text, never as HTML.

/** The element with this id. Throws when it is missing: a page and its script belong together. */
export function $(id) {
  const element = document.getElementById(id);
  if (!element) throw new Error(`the page has no #${id}`);
  return element;
}

/** A new element: `make("p", { class: "hint", hidden: true }, "text", child)`. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** Shows `text` in `element` in the colour of `kind`, or hides it when there is no text. */
export function notice(element, text, kind = "") {
  element.hidden = !text;
  element.dataset.kind = kind;
  element.textContent = text ?? "";
}

/** Reads or writes one remembered value; a browser that forbids storage remembers nothing. */
export const memory = {
  get(key) {
    try {
      return localStorage.getItem(`vmshare.${key}`);
    } catch {
      return null;
    }
  },
  set(key, value) {
    try {
      localStorage.setItem(`vmshare.${key}`, value);
    } catch {
      // Remembering is a comfort, not a promise.
    }
  },
};

/** Buttons marked `data-close` and a click beside the sheet close a dialog, as Escape does. */
export function closable(dialog) {
  dialog.addEventListener("mousedown", (event) => {
    if (event.target !== dialog) return;
    const box = dialog.getBoundingClientRect();
    const inside = event.clientX >= box.left && event.clientX <= box.right && event.clientY >= box.top && event.clientY <= box.bottom;
    if (!inside) dialog.close();
  });
  for (const button of dialog.querySelectorAll("[data-close]")) button.addEventListener("click", () => dialog.close());
}

/** Opens a dialog and resolves to the button it was closed with. */
export async function ask(dialog) {
  dialog.returnValue = "";
  dialog.showModal();
  await new Promise((closed) => dialog.addEventListener("close", closed, { once: true }));
  return dialog.returnValue;
}

/** Asks once in the dialog `#sure`, naming what is lost; resolves to true for yes. */
export async function sure({ title, loss, yes }) {
  $("sure-title").textContent = title;
  $("sure-loss").textContent = loss;
  $("sure-yes").textContent = yes;
  return (await ask($("sure"))) === "yes";
}

/** Copies `text`; false where the browser does not let a page do that. */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Without TLS there is no clipboard for pages, but there is the command of old.
    const field = make("textarea", { class: "sr-only", readonly: true });
    const had = document.activeElement;
    (had?.closest("dialog") ?? document.body).append(field);
    field.value = text;
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    had?.focus();
    return done;
  }
}

/** Copies `text` at a click on `button` and says on it for a moment how that went; `field` is where the text can be copied by hand. */
export function copies(button, text, field) {
  const words = button.textContent;
  let later;
  button.addEventListener("click", async () => {
    const done = await copyText(text());
    if (!done) field?.select();
    button.textContent = done ? "Copied" : "Press Ctrl+C";
    clearTimeout(later);
    later = setTimeout(() => (button.textContent = words), 1500);
  });
}

/** An id that a click copies. */
export function idButton(id) {
  const button = make("button", { type: "button", class: "font-mono underline decoration-dotted underline-offset-4", title: "Copy", "aria-label": `Copy the id ${id}` }, id);
  copies(button, () => id);
  return button;
}

/** Shows a badge with these words, or none. */
export function badge(element, words) {
  element.hidden = !words;
  // Set only when it changes: it is read out then.
  if (element.textContent !== words) element.textContent = words;
}
