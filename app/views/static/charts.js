// Small charts in SVG, each with its table behind it.
import { h, s, number } from "./dom.js";

const HEIGHT = 160, LEFT = 52, TOP = 10, BOTTOM = 18;

export function ticks(most, about = 3) {
  if (most <= 0) return [0, 1];
  const raw = most / about, unit = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((factor) => factor * unit).find((size) => size >= raw);
  const whole = Math.max(1, step);
  return Array.from({ length: Math.ceil(most / whole) + 1 }, (_, index) => index * whole);
}

// As wide as there is room: a picture that is stretched has stretched letters.
const wide = (figure) => Math.max(240, figure.clientWidth);

function frame(top, label, width) {
  const svg = s("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": label });
  for (const tick of top) {
    const y = down(tick, top.at(-1));
    svg.append(s("line", { class: "grid", x1: LEFT, x2: width, y1: y, y2: y }), s("text", { class: "tick", x: LEFT - 6, y: y + 4, "text-anchor": "end" }, number(tick)));
  }
  return svg;
}

const down = (value, most) => TOP + (HEIGHT - BOTTOM - TOP) * (1 - value / most);
// Where a bucket begins; it ends where the next one begins.
const across = (index, count, width) => LEFT + ((width - LEFT) * index) / count;

function times(svg, buckets, interval, width) {
  const shown = Math.min(Math.floor(width / 90), buckets.length);
  for (let n = 0; n < shown; n++) {
    const index = Math.round((n * (buckets.length - 1)) / Math.max(1, shown - 1));
    const at = new Date(buckets[index]);
    const text = interval === "day" ? at.toLocaleDateString([], { month: "short", day: "numeric" }) : at.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
    svg.append(s("text", { class: "tick", x: across(index, buckets.length, width), y: HEIGHT - 3, "text-anchor": n === 0 ? "start" : n === shown - 1 ? "end" : "middle" }, text));
  }
}

// Steps one on top of the other, a bucket a step; `series` are [{name, values}].
export function stacked(figure, { buckets, series, interval, label }) {
  const sums = buckets.map((_, index) => series.reduce((sum, one) => sum + one.values[index], 0));
  const top = ticks(Math.max(...sums, 1));
  const width = wide(figure), svg = frame(top, label, width);
  const at = (index, value) => [index, index + 1].map((one) => `${across(one, buckets.length, width)},${down(value, top.at(-1))}`);
  const under = buckets.map(() => 0);
  series.forEach((one, colour) => {
    const floor = [...under];
    one.values.forEach((value, index) => { under[index] += value; });
    const upper = under.flatMap((value, index) => at(index, value)), lower = floor.flatMap((value, index) => at(index, value)).reverse();
    svg.append(s("polygon", { class: `area c${colour % 8}`, points: [...upper, ...lower].join(" ") }, s("title", {}, `${one.name || label}: ${number(one.values.reduce((sum, value) => sum + value, 0))}`)));
  });
  times(svg, buckets, interval, width);
  const legend = h("ul", { class: "legend" }, series.filter((one) => one.name).map((one, colour) => h("li", { class: `c${colour % 8}` }, one.name)));
  const rows = buckets.map((bucket, index) => [new Date(bucket).toLocaleString(), ...series.map((one) => number(one.values[index]))]);
  show(figure, [svg, legend], ["Time", ...series.map((one) => one.name || label)], rows.filter((_, index) => sums[index]));
}

// One bar a row: calls, with failures in another colour.
export function bars(figure, { rows, label }) {
  const most = Math.max(...rows.map((row) => row.calls), 1);
  const list = h("ul", { class: "bars", "aria-label": label }, rows.slice(0, 12).map((row) => {
    const good = s("rect", { class: "good", width: (100 * (row.calls - row.failures)) / most, height: 10 });
    const bad = s("rect", { class: "bad", x: (100 * (row.calls - row.failures)) / most, width: (100 * row.failures) / most, height: 10 });
    const bar = s("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" }, good, bad);
    return h("li", {}, h("span", { class: "name" }, row.name), bar, h("span", { class: "value" }, `${number(row.calls)}${row.failures ? ` · ${number(row.failures)} failed` : ""}${row.p95_ms == null ? "" : ` · p95 ${row.p95}`}`));
  }));
  show(figure, [list], ["Tool", "Calls", "Failed", "p50", "p95", "p99"], rows.map((row) => [row.name, number(row.calls), number(row.failures), row.p50, row.p95, row.p99]));
}

// Seven days of 24 hours; `values` is [{at, value}].
export function heat(figure, { values, label }) {
  const days = new Map();
  for (const { at, value } of values) {
    const date = new Date(at), name = date.toLocaleDateString([], { weekday: "short", day: "numeric" });
    if (!days.has(name)) days.set(name, Array(24).fill(0));
    days.get(name)[date.getHours()] += value;
  }
  const most = Math.max(...values.map(({ value }) => value), 1);
  const svg = s("svg", { viewBox: `0 0 ${LEFT + 24 * 22} ${days.size * 16 + BOTTOM}`, role: "img", "aria-label": label });
  [...days].forEach(([name, hours], row) => {
    svg.append(s("text", { class: "tick", x: LEFT - 6, y: row * 16 + 11, "text-anchor": "end" }, name));
    hours.forEach((value, hour) => svg.append(s("rect", { class: `heat h${value ? 1 + Math.min(4, Math.floor((5 * value) / (most + 1))) : 0}`, x: LEFT + hour * 22, y: row * 16, width: 20, height: 14 }, s("title", {}, `${name} ${hour}:00 – ${number(value)}`))));
  });
  for (const hour of [0, 6, 12, 18, 23]) svg.append(s("text", { class: "tick", x: LEFT + hour * 22 + 10, y: days.size * 16 + 13, "text-anchor": "middle" }, hour));
  show(figure, [svg], ["Day", "Hour", "Events"], [...days].flatMap(([name, hours]) => hours.map((value, hour) => [name, hour, number(value)])).filter((row) => row[2] !== "0"));
}

function show(figure, chart, head, rows) {
  const open = figure.querySelector("details")?.open ?? false;
  const table = h("table", {}, h("thead", {}, h("tr", {}, head.map((text) => h("th", { scope: "col" }, text)))), h("tbody", {}, rows.slice(0, 500).map((row) => h("tr", {}, row.map((cell) => h("td", {}, String(cell ?? "")))))));
  figure.replaceChildren(figure.querySelector("figcaption"), ...chart, h("details", { open }, h("summary", {}, "As a table"), table));
}
