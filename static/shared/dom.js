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

/** Shows a badge with these words, or none. */
export function badge(element, words) {
  element.hidden = !words;
  // Set only when it changes: it is read out then.
  if (element.textContent !== words) element.textContent = words;
}
