// Elements out of plain text: nothing that comes from an event is ever read as HTML.

export const $ = (id) => document.getElementById(id);

const SVG = "http://www.w3.org/2000/svg";

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child != null && child !== false));
  return node;
}

export const h = (tag, attributes, ...children) => filled(document.createElement(tag), attributes, children);
export const s = (tag, attributes, ...children) => filled(document.createElementNS(SVG, tag), attributes, children);

// Made once: toLocaleTimeString makes one each time it is asked, which takes a busy feed a tenth of a core.
const TIME = new Intl.DateTimeFormat([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });

export const clock = (at) => TIME.format(new Date(at));

export function day(at) {
  return at ? new Date(at).toLocaleString([], { dateStyle: "short", timeStyle: "medium" }) : "";
}

// Shorter: the time, and the day only where it is not today.
export function when(at) {
  if (!at) return "";
  const date = new Date(at), today = date.toDateString() === new Date().toDateString();
  return today ? clock(at) : date.toLocaleString([], { dateStyle: "short", timeStyle: "short" });
}

export function lasting(ms) {
  if (ms == null) return "";
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(1)} s`;
  if (ms < 3_600_000) return `${Math.floor(ms / 60_000)} min ${Math.round((ms % 60_000) / 1000)} s`;
  return `${(ms / 3_600_000).toFixed(1)} h`;
}

export const number = (value) => value.toLocaleString("en").replaceAll(",", "\u202f");
