// The live feed: what flows, newest first, in as many rows as a person can look through.
import { $, h, clock } from "./dom.js";

// A busy feed is drawn a few times a second: laying out the list costs more than the rows.
const ROWS = 300, WAITING = 2000, PACE_MS = 200;

export class Feed {
  constructor(open) {
    this.open = open;
    this.list = $("events");
    this.waiting = [];
    this.paused = false;
    this.drawing = false;
    this.drawn = -PACE_MS;
    this.dropped = 0;
    this.seen = new Set();
  }

  // Watch with these filters from now on (or from behind a place); resolves once the stream has begun.
  watch(filters, onStats, after = "") {
    this.source?.close();
    clearTimeout(this.again);
    const url = new URL("/sse/events", location.origin);
    for (const [name, value] of Object.entries({ ...filters, after })) if (value) url.searchParams.set(name, value);
    const source = this.source = new EventSource(url);
    let place = after;
    const on = (name, does) => source.addEventListener(name, (message) => { place = message.lastEventId || place; if (source === this.source) does(message); });
    this.say("connecting…");
    on("message", (message) => this.take(JSON.parse(message.data)));
    on("missed", (message) => this.gap(JSON.parse(message.data).count));
    on("stats", (message) => onStats(JSON.parse(message.data)));
    source.addEventListener("open", () => this.say(this.paused ? "paused" : "live"));
    source.addEventListener("error", () => {
      if (source !== this.source) return;
      this.say("the connection is lost; it is tried again, and nothing is skipped");
      // An answer that is no stream (the server was starting, the broker away) ends an EventSource for good.
      if (source.readyState === EventSource.CLOSED) this.again = setTimeout(() => this.watch(filters, onStats, place), 2000);
    });
    return new Promise((begun) => { on("hello", begun); setTimeout(begun, 3000); });
  }

  clear() {
    this.waiting = [];
    this.seen.clear();
    this.list.replaceChildren();
  }

  // Events of before, the oldest first: below what has come meanwhile, and without what is there already.
  before(events) {
    const rows = events.filter((event) => this.fresh(event)).map((event) => this.row(event));
    this.list.append(...rows.reverse());
    this.trim();
  }

  fresh(event) {
    if (this.seen.has(event.event_id)) return false;
    this.seen.add(event.event_id);
    if (this.seen.size > 3 * WAITING) this.seen = new Set([...this.seen].slice(-WAITING));
    return true;
  }

  trim() {
    while (this.list.children.length > ROWS) this.list.lastElementChild.remove();
    if (this.list.children.length) $("empty").hidden = true;
  }

  pause(paused) {
    this.paused = paused;
    this.say(paused ? "paused" : "live");
    if (!paused) this.draw();
  }

  take(event) {
    if (!this.fresh(event)) return;
    this.waiting.push({ event });
    this.bound();
    this.draw();
  }

  gap(count) {
    this.waiting.push({ gap: count });
    this.draw();
  }

  bound() {
    while (this.waiting.length > WAITING) {
      this.waiting.shift();
      this.dropped += 1;
    }
  }

  say(text) {
    $("feed-state").textContent = text;
  }

  draw() {
    if (this.paused) {
      this.say(`paused; ${this.waiting.length + this.dropped} new`);
      return;
    }
    if (this.drawing) return;
    this.drawing = true;
    setTimeout(() => requestAnimationFrame(() => {
      this.drawing = false;
      if (this.paused) return this.draw();
      this.drawn = performance.now();
      const found = this.waiting.splice(0);
      if (this.dropped) found.unshift({ gap: this.dropped });
      this.dropped = 0;
      const fresh = found.slice(-ROWS).map((one) => (one.gap ? gapRow(one.gap) : this.row(one.event)));
      this.list.prepend(...fresh.reverse());
      this.trim();
    }), Math.max(0, this.drawn + PACE_MS - performance.now()));
  }

  row(event) {
    const say = summary(event);
    const open = () => this.open(event.event_id, event.session_id);
    return h("li", { tabindex: -1, onclick: open, "data-session": event.session_id, class: kind(event.event_type) },
      h("time", { datetime: new Date(event.occurred_at).toISOString() }, clock(event.occurred_at)),
      h("span", { class: "type" }, event.event_type),
      event.tool_name && h("span", { class: "tool" }, event.tool_name),
      h("span", { class: "what", dir: "auto" }, say),
      h("span", { class: "who" }, event.project ?? "", event.agent_type ? ` · ${event.agent_type}` : ""));
  }
}

function gapRow(count) {
  return h("li", { class: "gap" }, `${count} events are not shown here`);
}

export function kind(type) {
  if (type.includes("failure") || type.includes("error")) return "bad";
  if (type === "user_prompt") return "prompt";
  if (type.startsWith("session")) return "session";
  return "";
}

// One line that tells what happened; whatever the client sent, it is text here.
export function summary(event) {
  const payload = event.payload ?? {}, input = payload.tool_input ?? {};
  const found = [payload.prompt, payload.message, payload.error, input.command, input.file_path, input.pattern, input.url, input.description, payload.reason, payload.source].find((text) => typeof text === "string" && text);
  return (found ?? "").slice(0, 300);
}
