// The page of administrators: who may be here, and which section shows. A section works only while it is open.
import { call, onSignedOut } from "../shared/api.js";
import { $, notice } from "../shared/dom.js";
import { alerts, audit, connections, countAlerts } from "./events.js";
import { host } from "./host.js";
import { invites } from "./invites.js";
import { setUpSecret } from "./rows.js";
import { users } from "./users.js";
import { wall } from "./wall.js";

const RETRY_MS = 3000;

let sections = {};
let open = null;

const names = () => Object.keys(sections);

function select(name, focus) {
  // A second click asks again.
  if (open === name) return void sections[name].renew?.();
  if (open) sections[open].close();
  open = name;
  for (const one of names()) {
    const chosen = one === name;
    $(`tab-${one}`).setAttribute("aria-selected", String(chosen));
    $(`tab-${one}`).tabIndex = chosen ? 0 : -1;
    $(one).hidden = !chosen;
  }
  if (focus) $(`tab-${name}`).focus();
  history.replaceState(null, "", `#${name}`);
  sections[name].open();
}

function setUpTabs() {
  const bar = document.querySelector('[role="tablist"]');
  for (const tab of bar.children) tab.hidden = !names().includes(tab.id.slice(4));
  bar.addEventListener("click", (event) => event.target.closest("[role=tab]") && select(event.target.closest("[role=tab]").id.slice(4), false));
  bar.addEventListener("keydown", (event) => {
    const all = names();
    const now = all.indexOf(open);
    const next = { ArrowRight: now + 1, ArrowLeft: now - 1, Home: 0, End: all.length - 1 }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    select(all[(next + all.length) % all.length], true);
  });
}

function refuse(text) {
  if (open) sections[open].close();
  $("loading").hidden = true;
  $("sections").hidden = true;
  notice($("banner"), text, "warn");
}

async function begin() {
  try {
    const { signed_in: known, signup } = await call("GET", "/version");
    if (!known) return refuse("You are not signed in. Log in on the home page, then come back.");
    const { user } = await call("GET", "/auth/me");
    if (user.role === "admin") {
      sections = { class: wall({ acts: true }), host: host(), users: users(user), invites: invites(signup), connections: connections(), alerts: alerts(), audit: audit() };
    } else if (user.role === "teacher") {
      $("title").textContent = "Class";
      sections = { class: wall({ acts: false }) };
    } else return refuse("This page is for administrators and teachers. Ask one of them to give you that role.");
    setUpSecret();
    setUpTabs();
    $("loading").hidden = true;
    $("sections").hidden = false;
    notice($("banner"), "");
    if (user.role === "admin") countAlerts();
    const wanted = location.hash.slice(1);
    select(names().includes(wanted) ? wanted : "class", false);
  } catch (problem) {
    if (problem.status === 401) return;
    notice($("banner"), `${problem.message} Trying again…`, "warn");
    setTimeout(begin, RETRY_MS);
  }
}

onSignedOut(() => refuse("Your session has ended. Log in on the home page, then come back."));
addEventListener("hashchange", () => names().includes(location.hash.slice(1)) && select(location.hash.slice(1), false));
begin();
