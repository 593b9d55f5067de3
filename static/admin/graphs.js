// Graphs of the host on uPlot, in the colours of the theme. Each has its last, or the pointed at, values in words below it; for who does
// not see it, they and the highest ones are its name.
import uPlot from "uplot";
import { make } from "../shared/dom.js";

const HEIGHT = 200;
/** As much time is shown at least. */
const LEAST_SECONDS = 300;

/** Title, words for a value, top of the scale, room for its numbers, steps of what comes in wholes, and the lines: name, member of the history, colour of the theme. */
const GRAPHS = ({ percent, rate }) => [
  { title: "CPU, memory and disk", words: percent, top: 100, lines: [["CPU", "cpu_percent", "accent"], ["Memory", "memory_percent", "good"], ["Disk", "disk_percent", "warn"]] },
  { title: "Network", words: rate, side: 90, lines: [["In", "rx_bps", "accent"], ["Out", "tx_bps", "good"]] },
  { title: "Load", words: (value) => String(Number(value.toFixed(2))), lines: [["Load", "load", "accent"]] },
  { title: "Desktops", steps: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000], words: (value) => String(Math.round(value)), lines: [["Running", "vms", "accent"]] },
];

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--color-${name}`).trim();
const last = (values) => values.findLast((value) => Number.isFinite(value));

function graph(place, { title, words, top, side, steps, lines }) {
  const area = make("div", { role: "img", class: "min-w-0" });
  const said = make("p", { class: "hint mt-1 flex flex-wrap gap-x-4 tabular-nums" });
  place.append(make("figure", { class: "card p-3 min-w-0" }, make("figcaption", { class: "font-semibold" }, title), area, said));
  const values = lines.map(([name, , tone]) => {
    const value = make("span", { class: "whitespace-nowrap" });
    said.append(make("span", { class: `graph-${tone} flex items-center gap-1.5` }, make("span", { class: "swatch", "aria-hidden": "true" }), `${name}: `, value));
    return value;
  });
  let plot = null;
  let data = null;

  const tell = (index) => lines.forEach((_, line) => {
    const value = Number.isInteger(index) ? data[line + 1][index] : last(data[line + 1]);
    values[line].textContent = Number.isFinite(value) ? words(value) : "none";
  });
  const options = () => {
    const axis = { stroke: colour("muted"), grid: { stroke: colour("line"), width: 1 }, ticks: { stroke: colour("line"), width: 1 } };
    return {
      width: Math.max(100, area.clientWidth), height: HEIGHT, legend: { show: false }, cursor: { y: false, drag: { setScale: false } },
      // A server that has just begun has a value or two: they are the last minutes', not years'.
      scales: { x: { range: (_, least, most) => (most === null ? [null, null] : [Math.min(least, most - LEAST_SECONDS), most]) }, y: { range: (_, least, most) => [0, top ?? Math.max(1, (most ?? 0) * 1.1)] } },
      axes: [axis, { ...axis, size: side ?? 60, ...(steps && { incrs: steps }), values: (_, marks) => marks.map(words) }],
      series: [{}, ...lines.map(([name, , tone]) => ({ label: name, stroke: colour(tone), width: 2, spanGaps: false, points: { show: false } }))],
      hooks: { setCursor: [({ cursor }) => data && tell(cursor.idx)] },
    };
  };
  const build = () => {
    plot?.destroy();
    plot = new uPlot(options(), data, area);
  };
  new ResizeObserver(() => plot && area.clientWidth && plot.setSize({ width: area.clientWidth, height: HEIGHT })).observe(area);
  return {
    show(history) {
      data = [history.at, ...lines.map(([, member]) => history[member])];
      if (plot) plot.setData(data);
      else build();
      tell(null);
      const now = lines.map(([name], line) => `${name} ${values[line].textContent}, highest ${words(Math.max(0, ...data[line + 1].filter(Number.isFinite)))}`);
      area.setAttribute("aria-label", `${title}: ${now.join("; ")}`);
    },
    repaint: () => data && build(),
  };
}

/** Makes the graphs in `place`; `words` says how values are written. */
export function graphs(place, words) {
  const all = GRAPHS(words).map((about) => graph(place, about));
  new MutationObserver(() => all.forEach((one) => one.repaint())).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  return { show: (history) => all.forEach((one) => one.show(history)) };
}
