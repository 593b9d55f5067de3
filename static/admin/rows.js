// What the sections of the page share: times, ids, lists that go on, and the two dialogs.
import { call, serverNow } from "../shared/api.js";
import { $, make, notice } from "../shared/dom.js";
import { ago, exactly } from "../shared/words.js";

/** How long ago, with the exact time on hover. */
export function when(date) {
  return make("time", { datetime: date, title: exactly(date) }, ago(serverNow() - Date.parse(date)));
}

/** An id that a click copies. */
export function idButton(id) {
  const button = make("button", { type: "button", class: "font-mono underline decoration-dotted underline-offset-4", title: "Copy", "aria-label": `Copy the id ${id}` }, id);
  button.addEventListener("click", async () => {
    await navigator.clipboard?.writeText(id).catch(() => null);
    button.textContent = "copied";
    setTimeout(() => (button.textContent = id), 1200);
  });
  return button;
}

/** A small labelled fact. */
export function fact(name, value) {
  return make("div", { class: "min-w-0" }, make("dt", { class: "hint" }, name), make("dd", { class: "font-semibold wrap-anywhere tabular-nums" }, value));
}

/** Asks once, naming what is lost; resolves to true for yes. */
export async function sure({ title, loss, yes }) {
  const dialog = $("sure");
  $("sure-title").textContent = title;
  $("sure-loss").textContent = loss;
  $("sure-yes").textContent = yes;
  dialog.returnValue = "";
  dialog.showModal();
  await new Promise((closed) => dialog.addEventListener("close", closed, { once: true }));
  return dialog.returnValue === "yes";
}

/** Shows what is told once; resolves when it was closed. */
export async function tellSecret({ title, label, text, hint = "It is shown only now." }) {
  const dialog = $("secret");
  $("secret-title").textContent = title;
  $("secret-label").textContent = label;
  $("secret-text").value = text;
  $("secret-hint").textContent = hint;
  dialog.showModal();
  $("secret-text").select();
  await new Promise((closed) => dialog.addEventListener("close", closed, { once: true }));
  $("secret-text").value = "";
}

/** Wires the dialog's Copy button. */
export function setUpSecret() {
  $("secret-copy").addEventListener("click", async () => {
    $("secret-text").select();
    await navigator.clipboard?.writeText($("secret-text").value).catch(() => null);
    $("secret-copy").textContent = "Copied";
    setTimeout(() => ($("secret-copy").textContent = "Copy"), 1500);
  });
}

/**
 * A list with pages and, where the page has a field for it, a search: `name` is the prefix of its elements' ids, `path` where its rows come
 * from, `rows(answer)` picks them, `line(row)` draws one, `empty` says what to do first, `absent` that this server has no such thing.
 */
export function pages({ name, path, rows, line, empty, absent }) {
  const [list, none, more, error] = ["list", "none", "more", "error"].map((part) => document.getElementById(`${name}-${part}`));
  const search = document.getElementById(`${name}-search`);
  let next = null;
  let asked = 0;
  let later;

  const load = async (before) => {
    const turn = ++asked;
    const words = search?.value.trim() ?? "";
    const query = new URLSearchParams({ limit: "50", ...(words && { q: words }), ...(before && { before }) });
    try {
      const answer = await call("GET", `${path}?${query}`);
      if (turn !== asked) return;
      const drawn = rows(answer).map(line);
      if (before) list.append(...drawn);
      else list.replaceChildren(...drawn);
      if (before) drawn[0]?.querySelector("button, a, select")?.focus();
      next = answer.next ?? null;
      error.textContent = "";
      notice(none, list.children.length ? "" : words ? "Nothing has these words. Try fewer." : empty);
    } catch (problem) {
      if (turn !== asked || problem.status === 401) return;
      if (problem.status === 404 && absent) notice(none, absent);
      else error.textContent = problem.message;
    }
    if (more) more.hidden = next === null;
  };
  more?.addEventListener("click", () => load(String(next)));
  search?.addEventListener("input", () => {
    clearTimeout(later);
    later = setTimeout(load, 250);
  });
  return { open: () => load(), close: () => clearTimeout(later) };
}
