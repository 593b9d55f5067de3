// The API for people: draws what /openapi.json says, and finds in it. Nothing is described here.

import { call } from "../shared/api.js";
import { $, make, notice } from "../shared/dom.js";
import { operations } from "./operations.js";

/** Text in which `…` is code. */
function prose(text) {
  return text.split("`").map((part, n) => (n % 2 ? make("code", { class: "inline-code" }, part) : part));
}

function part(title, ...children) {
  return make("div", { class: "mt-4" }, make("h3", { class: "label" }, title), ...children);
}

function list(rows) {
  const items = rows.flatMap(({ name, hint, text }) => [
    make("dt", { class: "mt-2 wrap-anywhere" }, make("code", { class: "inline-code" }, name), make("span", { class: "hint" }, ` ${hint}`)),
    make("dd", { class: "wrap-anywhere" }, ...prose(text)),
  ]);
  return make("dl", {}, ...items);
}

const code = (text) => make("pre", { class: "code mt-1" }, text);

function draw(operation) {
  const { id, method, path, summary, description, who, inputs, curl, answer, headers, problems } = operation;
  const heading = make(
    "summary",
    { class: "flex flex-wrap items-baseline gap-x-3 gap-y-1 py-3 min-h-11" },
    make("span", { class: "method", "data-method": method }, method),
    make("code", { class: "font-mono font-semibold wrap-anywhere" }, path),
    make("span", { class: "text-muted" }, summary),
  );
  const body = make("div", { class: "pt-2 pb-5" }, make("p", { class: "hint" }, `For ${who}.`));
  if (description) body.append(make("p", { class: "mt-2" }, ...prose(description)));
  if (inputs.length) body.append(part("What it takes", list(inputs)));
  body.append(part("Example", code(curl)), part(`Answer ${answer.status}`, make("p", {}, ...prose(answer.text))));
  if (headers.length) body.append(code(headers.join("\n")));
  if (answer.example) body.append(code(answer.example));
  if (problems.length) body.append(part("Errors", list(problems)));
  return make("details", { id, class: "call border-b border-line" }, heading, body);
}

function show(document_) {
  // All at once: what is there does not move.
  $("rest").hidden = false;
  $("about").replaceChildren(...prose(document_.info.description));
  const sections = document_.tags.map(({ name, description }) => {
    const mine = operations(document_, name).map((operation) => ({ node: draw(operation), words: operation.words }));
    const title = name[0].toUpperCase() + name.slice(1);
    const heading = make("h2", { class: "mt-10 text-xl font-bold", id: `tag-${name}` }, title);
    const nodes = mine.map(({ node }) => node);
    return { node: make("section", { "aria-labelledby": `tag-${name}` }, heading, make("p", { class: "hint mb-2" }, description), ...nodes), mine };
  });
  $("groups").replaceChildren(...sections.map(({ node }) => node));

  const search = $("search");
  const filter = () => {
    const wanted = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const { node, mine } of sections) {
      const fit = mine.filter(({ node: one, words }) => !(one.hidden = !wanted.every((word) => words.includes(word))));
      node.hidden = fit.length === 0;
      count += fit.length;
    }
    $("found").textContent = count === 1 ? "1 call" : count ? `${count} calls` : "No call has these words. Try fewer of them.";
  };
  search.addEventListener("input", filter);
  search.disabled = false;
  filter();
}

/** Opens the call that the address names, so that one can be linked to. */
function openNamed() {
  const named = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (named?.tagName !== "DETAILS") return;
  named.open = true;
  named.scrollIntoView();
}

$("begin").textContent = [
  `VMSHARE=${location.origin}`,
  `curl -X POST -H 'Content-Type: application/json' -d '{"email":"you","password":"…"}' "$VMSHARE/auth/login"`,
  "TOKEN=…   # what the answer has as token",
].join("\n");

try {
  show(await call("GET", "/openapi.json"));
  openNamed();
  addEventListener("hashchange", openNamed);
} catch (problem) {
  $("about").textContent = "Every call, with examples.";
  notice($("failed"), problem.message, "bad");
}
