// What the sections of the page share: facts, lists that go on, and what is told once.
import { call } from "../shared/api.js";
import { $, ask, copies, make, notice } from "../shared/dom.js";

/** A small labelled fact. */
export function fact(name, value) {
  return make("div", { class: "min-w-0" }, make("dt", { class: "hint" }, name), make("dd", { class: "font-semibold wrap-anywhere tabular-nums" }, value));
}

/** Shows what is told once; resolves when it was closed. */
export async function tellSecret({ title, label, text, hint = "It is shown only now." }) {
  const dialog = $("secret");
  $("secret-title").textContent = title;
  $("secret-label").textContent = label;
  $("secret-text").value = text;
  $("secret-hint").textContent = hint;
  const closed = ask(dialog);
  $("secret-text").select();
  await closed;
  $("secret-text").value = "";
}

/** Wires the dialog's Copy button. */
export function setUpSecret() {
  copies($("secret-copy"), () => $("secret-text").value, $("secret-text"));
}

/**
 * A list with pages and, where the page has a field for it, a search: `name` is the prefix of its elements' ids, `path` where its rows come
 * from, `rows(answer)` picks them, `line(row)` draws one, `empty` says what to do first, `absent` that this server has no such thing. `prepare()` is
 * waited for first, `drawn()` hears of each new drawing, and with `every` milliseconds a list of one page is looked at again while it is open.
 */
export function pages({ name, path, rows, line, empty, absent, prepare, drawn = () => null, every }) {
  const [list, none, more, error] = ["list", "none", "more", "error"].map((part) => document.getElementById(`${name}-${part}`));
  const search = document.getElementById(`${name}-search`);
  let next = null;
  let asked = 0;
  let later;
  let timer;
  let went = false;
  let loading = 0;
  let last = "";

  const load = async (before, again) => {
    const turn = ++asked;
    const words = search?.value.trim() ?? "";
    const query = new URLSearchParams({ limit: "50", ...(words && { q: words }), ...(before && { before }) });
    loading += 1;
    try {
      await prepare?.();
      const answer = await call("GET", `${path}?${query}`);
      if (turn !== asked) return;
      error.textContent = "";
      const text = JSON.stringify(answer);
      // What is the same stays: a reader, the focus and what is selected are in it.
      if (again && text === last) return;
      [went, last] = [Boolean(before), text];
      const lines = rows(answer).map(line);
      if (before) list.append(...lines);
      else list.replaceChildren(...lines);
      if (before) lines[0]?.querySelector("button, a, select")?.focus();
      next = answer.next ?? null;
      drawn();
      notice(none, list.children.length ? "" : words ? "Nothing has these words. Try fewer." : empty);
    } catch (problem) {
      if (turn !== asked || problem.status === 401) return;
      if (problem.status === 404 && absent) {
        clearInterval(timer);
        notice(none, absent);
      } else if (error.textContent !== problem.message) error.textContent = problem.message;
    } finally {
      loading -= 1;
    }
    if (more) more.hidden = next === null;
  };
  more?.addEventListener("click", () => load(String(next)));
  search?.addEventListener("input", () => {
    clearTimeout(later);
    later = setTimeout(load, 250);
  });
  const look = () => document.visibilityState === "visible" && !went && !loading && !list.contains(document.activeElement) && load(undefined, true);
  const open = () => {
    clearInterval(timer);
    if (every) timer = setInterval(look, every);
    return load();
  };
  return {
    open,
    close() {
      clearTimeout(later);
      clearInterval(timer);
    },
    renew: open,
  };
}
