// The class at a glance: a tile for each running desktop, with what it shows now; one or many of them are restarted or stopped.
//
// The list is asked for every few seconds while the section is open and the page in front; a tile stays the same element as long as
// its desktop is there, so that pictures, selection and focus stay.
import { call, serverNow } from "../shared/api.js";
import { $, idButton, make, notice, sure } from "../shared/dom.js";
import { thumbnail } from "../shared/thumbnail.js";
import { RESTART_LOSS, exactly, megabytes, span } from "../shared/words.js";

const LIST_MS = 5000;
const LOAD_MS = 10_000;
const PICTURE_MS = 10_000;
/** Desktops of one request, and pages of the list that are read. */
const AT_ONCE = 200;
const PAGES = 20;

const STATES = { starting: ["Starting", "warn"], running: ["Running", "good"], stopping: ["Shutting down", "warn"] };
const alive = (vm) => vm.state in STATES;
const people = (names) => (names.length > 3 ? `${names.slice(0, 3).join(", ")} and ${names.length - 3} more` : names.join(", "));
const desktops = (count) => (count === 1 ? "1 desktop" : `${count} desktops`);

function makeTile(acts, changed) {
  const choose = make("input", { type: "checkbox", class: "size-5 shrink-0" });
  const owner = make("span", { class: "font-semibold min-w-0 wrap-anywhere" });
  const state = make("span", { class: "badge ml-auto shrink-0" });
  const label = make("label", { class: "flex items-start gap-2 min-w-0 grow -m-2 p-2" }, ...(acts ? [choose] : []), owner);
  const image = make("img", { alt: "", width: 320, height: 240, hidden: true });
  const look = make("a", { class: "look mt-2" }, image);
  const facts = make("p", { class: "hint mt-2 wrap-anywhere tabular-nums" });
  const foot = make("p", { class: "hint mt-1" });
  const item = make("li", { class: "card p-3 min-w-0 has-checked:outline-2 outline-accent" }, make("div", { class: "flex items-start gap-2" }, acts ? label : owner, state), look, facts, foot);
  choose.addEventListener("change", changed);
  return { item, choose, owner, state, look, facts, foot, picture: thumbnail(image, { every: PICTURE_MS }), vm: null };
}

function factsOf(vm, load) {
  const parts = [];
  if (load && load.cpu_percent !== null) parts.push([`CPU ${Math.round(load.cpu_percent)} %`]);
  if (load?.rss_mb) parts.push([`${megabytes(load.rss_mb)} used`]);
  if (vm.connected) parts.push(["somebody looks"]);
  if (vm.idle_s !== null) parts.push([vm.idle_s < 60 ? "in use" : `idle ${span(vm.idle_s * 1000)}`, `Last used ${exactly(serverNow() - vm.idle_s * 1000)}`]);
  if (vm.started_at) parts.push([`up ${span(serverNow() - Date.parse(vm.started_at))}`, `Since ${exactly(vm.started_at)}`]);
  // A number stays with its unit.
  return parts.flatMap(([words, title], at) => [at ? ", " : "", make("span", { class: "whitespace-nowrap", title }, words)]);
}

function draw(tile, vm, load, acts) {
  const [word, kind] = STATES[vm.state];
  const first = tile.vm === null;
  tile.vm = vm;
  tile.owner.textContent = vm.user;
  tile.state.textContent = vm.paused ? "Standing still" : word;
  tile.state.dataset.kind = vm.paused ? "bad" : kind;
  const page = `/novnc/?path=ws/${encodeURIComponent(vm.http_port)}&vmid=${encodeURIComponent(vm.vmid)}`;
  tile.look.href = `${page}&view=1`;
  tile.look.setAttribute("aria-label", `Look at the desktop of ${vm.user}`);
  tile.facts.replaceChildren(...factsOf(vm, load));
  if (first) tile.foot.append(idButton(vm.vmid), make("span", {}));
  // Looking is the rule; whoever does more says so, and it is written down.
  if (first && acts) tile.foot.append(" ", make("a", { class: "link whitespace-nowrap inline-block -my-2 py-2", href: `${page}&control=1`, "aria-label": `Take control of the desktop of ${vm.user}` }, "Take control"));
  const left = tile.foot.querySelector("span");
  left.textContent = vm.expires_at ? `, ${span(Math.max(0, Date.parse(vm.expires_at) - serverNow()))} left` : "";
  left.title = vm.expires_at ? `Until ${exactly(vm.expires_at)}${vm.expires_because === "idle" ? " unless somebody uses it" : ""}` : "";
  tile.picture.show(vm.state === "starting" ? null : vm.vmid);
}

/** Everyone's live desktops: they come before all others. */
async function everyone() {
  const all = [];
  let next = null;
  for (let page = 0; page < PAGES; page++) {
    const answer = await call("GET", `/vms?all=1&limit=100${next ? `&before=${encodeURIComponent(next)}` : ""}`);
    all.push(...answer.vms.filter(alive));
    next = answer.next;
    if (!next || !answer.vms.every(alive)) break;
  }
  return all;
}

function lossOf(vms, what) {
  if (what === "restart") return `${people(vms.map((vm) => vm.user))}: ${RESTART_LOSS}`;
  const bare = vms.filter((vm) => vm.persistence !== "persistent").length;
  const open = `Open programs of ${people(vms.map((vm) => vm.user))} are closed, and what is not saved in them is lost.`;
  if (!bare) return open;
  return `${open} ${bare === vms.length ? (bare === 1 ? "It keeps" : "They keep") : `${bare} of them keep`} nothing: every file there is gone for good.`;
}

/** The section; without `acts` it only shows. */
export function wall({ acts }) {
  const tiles = new Map();
  let load = new Map();
  let timers = [];
  let open = false;
  let listed = false;
  let acting = false;

  const shown = () => [...tiles.values()].filter((tile) => !tile.item.hidden);
  const chosen = () => shown().filter((tile) => tile.choose.checked);
  const count = () => {
    const [all, some] = [shown().length, chosen().length];
    const told = `${desktops(all)}${acts && some ? `, ${some} selected` : ""}`;
    // Set only when it changes: it is read out then.
    if (listed && $("wall-count").textContent !== told) $("wall-count").textContent = told;
    for (const id of ["wall-restart", "wall-stop"]) $(id).disabled = some === 0 || acting;
    $("wall-all").textContent = all > 0 && some === all ? "Select none" : "Select all";
    $("wall-all").disabled = all === 0;
    const words = $("wall-search").value.trim();
    notice($("wall-none"), !listed || all ? "" : words ? "No running desktop has these words. Try fewer." : "No desktop runs. When somebody in the class starts one, it is shown here; new people need an account or an invitation first.");
  };
  const filter = () => {
    const words = $("wall-search").value.trim().toLowerCase().split(/\s+/);
    for (const { item, vm } of tiles.values()) {
      const text = `${vm.user} ${vm.vmid} ${vm.state} ${vm.profile} ${vm.iso ?? ""} ${vm.paused ?? ""}`.toLowerCase();
      item.hidden = !words.every((word) => text.includes(word));
    }
    count();
  };
  const list = async () => {
    if (!open || document.visibilityState !== "visible") return;
    try {
      const vms = (await everyone()).sort((a, b) => a.user.localeCompare(b.user));
      if (!open) return;
      const there = new Set(vms.map((vm) => vm.vmid));
      for (const [vmid, tile] of tiles) {
        if (there.has(vmid)) continue;
        tile.picture.end();
        tile.item.remove();
        tiles.delete(vmid);
      }
      let before = null;
      for (const vm of vms) {
        const tile = tiles.get(vm.vmid) ?? makeTile(acts, count);
        tiles.set(vm.vmid, tile);
        draw(tile, vm, load.get(vm.vmid), acts);
        const place = before ? before.nextSibling : $("wall").firstChild;
        if (tile.item !== place) $("wall").insertBefore(tile.item, place);
        before = tile.item;
      }
      listed = true;
      if ($("wall-error").dataset.of === "list") $("wall-error").textContent = "";
      filter();
    } catch (problem) {
      if (problem.status === 401) return;
      $("wall-error").dataset.of = "list";
      $("wall-error").textContent = problem.message;
    }
  };
  const weigh = async () => {
    if (!open || !acts || document.visibilityState !== "visible") return;
    // A server that does not measure has nothing to show here.
    const answer = await call("GET", "/admin/load").catch((problem) => (problem.status === 404 && clearInterval(timers[1]), null));
    if (answer) load = new Map(answer.vms.map((one) => [one.vmid, one]));
  };
  const act = async (what) => {
    const vms = chosen().map((tile) => tile.vm);
    const word = what === "stop" ? "Stop" : "Restart";
    if (!vms.length || !(await sure({ title: `${word} ${desktops(vms.length)}?`, loss: lossOf(vms, what), yes: word }))) return;
    for (const id of ["wall-done", "wall-error"]) $(id).textContent = "";
    acting = true;
    count();
    $("wall-done").textContent = `${what === "stop" ? "Stopping" : "Restarting"} ${desktops(vms.length)}…`;
    const failed = [];
    let done = 0;
    try {
      for (let from = 0; from < vms.length; from += AT_ONCE) {
        const { results } = await call("POST", `/admin/vms/${what}`, { vmids: vms.slice(from, from + AT_ONCE).map((vm) => vm.vmid) });
        done += results.filter((one) => one.ok).length;
        for (const one of results.filter((result) => !result.ok)) failed.push(`${vms.find((vm) => vm.vmid === one.vmid).user}: ${one.detail}`);
      }
    } catch (problem) {
      failed.push(problem.message);
    }
    acting = false;
    $("wall-done").textContent = done ? `${desktops(done)} ${what === "stop" ? "stopped" : "restarted"}.` : "";
    $("wall-error").dataset.of = "act";
    $("wall-error").textContent = failed.join("\n");
    for (const { choose } of tiles.values()) choose.checked = false;
    await list();
    $("wall-all").focus();
  };

  $("wall-acts").hidden = !acts;
  $("wall-search").addEventListener("input", filter);
  $("wall-all").addEventListener("click", () => {
    const all = chosen().length < shown().length;
    for (const { choose } of shown()) choose.checked = all;
    count();
  });
  $("wall-stop").addEventListener("click", () => act("stop"));
  $("wall-restart").addEventListener("click", () => act("restart"));
  document.addEventListener("visibilitychange", list);
  return {
    open() {
      open = true;
      timers = [setInterval(list, LIST_MS), setInterval(weigh, LOAD_MS)];
      weigh().then(list);
      list();
    },
    close() {
      open = false;
      timers.forEach(clearInterval);
    },
  };
}
