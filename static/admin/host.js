// The host: how it is now, and graphs of the last hour or day. What draws them is loaded when the section is first opened.
import { Problem, call } from "../shared/api.js";
import { $, make, notice } from "../shared/dom.js";
import { megabytes } from "../shared/words.js";
import { fact } from "./rows.js";

const EVERY_MS = 5000;
const ABSENT = "This server does not measure its host yet, so there is nothing to show here.";

const percent = (value) => (value === null ? "not known" : `${Math.round(value)} %`);

/** A rate in bits a second. */
function rate(bps) {
  const [unit, size] = [["Gbit/s", 1e9], ["Mbit/s", 1e6], ["kbit/s", 1e3]].find(([, least]) => bps >= least) ?? ["bit/s", 1];
  return `${Number((bps / size).toFixed(1))} ${unit}`;
}

/** The share of the last ten seconds in which something waited for it; what the kernel does not tell is left out. */
function pressure({ cpu, memory, io }) {
  const known = [["CPU", cpu], ["memory", memory], ["disk", io]].filter(([, value]) => value !== null);
  return known.map(([name, value]) => `${name} ${percent(value)}`).join(", ");
}

function disk({ percent: used, free_gb: free, inodes_percent: inodes, measured }) {
  if (measured === false) return "does not answer";
  return `${percent(used)}, ${Math.round(free)} GB free${inodes >= 50 ? `, ${percent(inodes)} of its files` : ""}`;
}

function showNow(now) {
  const facts = [fact("CPU", `${percent(now.cpu_percent)}, load ${now.load.map((one) => one.toFixed(1)).join(" ")}`), fact("Memory", `${percent(now.memory.percent)} of ${megabytes(now.memory.total_mb)}`)];
  if (now.swap.total_mb > 0) facts.push(fact("Swap", `${percent(now.swap.percent)} of ${megabytes(now.swap.total_mb)}`));
  for (const volume of now.volumes) facts.push(fact(`Disk ${volume.path}`, disk(volume)));
  if (pressure(now.pressure)) facts.push(fact("Waiting for", pressure(now.pressure)));
  facts.push(fact("Network", `${rate(now.network.rx_bps)} in, ${rate(now.network.tx_bps)} out`), fact("Desktops", String(now.vms)));
  $("host-now").replaceChildren(...facts);
}

function sheet(address) {
  if (document.querySelector(`link[href="${address}"]`)) return null;
  const link = make("link", { rel: "stylesheet", href: address });
  const loaded = new Promise((done, failed) => {
    link.addEventListener("load", done, { once: true });
    link.addEventListener("error", () => {
      // It would be taken for one that is there.
      link.remove();
      failed(new Error("the graphs' style sheet could not be loaded"));
    }, { once: true });
  });
  document.head.append(link);
  return loaded;
}

/** Says so where a hostile guest is not kept in by the processor. */
function showAccel(accel, because) {
  const words = accel === "tcg" ? `Guests run emulated (TCG): ${because}. QEMU's emulation is no security boundary. Let only people you trust run images here, or give the host KVM.` : "";
  // Set only when it changes: it is read out then.
  if ($("host-accel").textContent !== words) notice($("host-accel"), words, "warn");
}

/** The section. */
export function host() {
  const section = $("host");
  let timer;
  let open = false;
  let turn = 0;
  let graphs = null;

  const look = async () => {
    clearTimeout(timer);
    if (!open || document.visibilityState !== "visible") return;
    const mine = ++turn;
    const range = section.querySelector('[name="range"]:checked').value;
    try {
      const { accel, accel_because: because, now, history } = await call("GET", `/admin/host?range=${range}`);
      if (!open || mine !== turn) return;
      notice($("host-none"), "");
      $("host-some").hidden = false;
      showAccel(accel, because);
      showNow(now);
      graphs ??= Promise.all([import(section.dataset.graphs), sheet(section.dataset.sheet)]).then(([module]) => module.graphs($("graphs"), { percent, rate }));
      (await graphs).show(history);
    } catch (problem) {
      if (problem.status === 401 || mine !== turn) return;
      const words = problem instanceof Problem ? problem.message : "What draws the graphs could not be loaded. Check your connection; it is tried again.";
      notice($("host-none"), problem.status === 404 ? ABSENT : words, problem.status === 404 ? "" : "bad");
      if (problem.status === 404) return;
      graphs = $("graphs").children.length ? graphs : null;
    }
    timer = setTimeout(look, EVERY_MS);
  };
  for (const choice of section.querySelectorAll('[name="range"]')) choice.addEventListener("change", look);
  document.addEventListener("visibilitychange", look);
  return {
    open() {
      open = true;
      look();
    },
    close() {
      open = false;
      clearTimeout(timer);
    },
  };
}
