// One session: what happened, in lanes for sub-agents, each tool call with its duration and outcome.
import { ask } from "./api.js";
import { h, s, clock, day, lasting, number } from "./dom.js";
import { kind, summary } from "./feed.js";

const ENDS = { tool_post_use: true, post_tool_use_failure: false };
// The first events come with their payloads, the others without: those are fetched when somebody looks at one.
const WHOLE = 300, PAGES = 20;
const SLIM = "event_id,session_id,event_type,occurred_at,tool_name,tool_use_id,agent_id,agent_type";

// Events in the order they happened become steps: a call is one step, from its beginning to its end.
export function steps(events) {
  const calls = new Map(), found = [];
  for (const event of events) {
    const id = event.tool_use_id && `${event.agent_id ?? ""}/${event.tool_use_id}`;
    const at = Date.parse(event.occurred_at);
    if (event.event_type === "tool_pre_use" && id) {
      const step = { kind: "call", name: event.tool_name, lane: lane(event), from: at, to: null, ok: null, events: [event] };
      calls.set(id, step);
      found.push(step);
    } else if (event.event_type in ENDS && calls.has(id)) {
      const step = calls.get(id);
      Object.assign(step, { to: at, ok: ENDS[event.event_type] });
      step.events.push(event);
    } else {
      found.push({ kind: kind(event.event_type) || "event", name: event.event_type, lane: lane(event), from: at, to: at, ok: ENDS[event.event_type] ?? null, events: [event] });
    }
  }
  return found;
}

const lane = (event) => (event.agent_id ? `${event.agent_type ?? "agent"} ${event.agent_id.slice(0, 8)}` : "");

async function all(sessionId) {
  const events = [];
  let cursor = "";
  for (let page = 0; page < PAGES; page++) {
    const { body } = await ask(`/sessions/${encodeURIComponent(sessionId)}/events`, { order: "asc", limit: page ? 1000 : WHOLE, fields: page ? SLIM : "", cursor });
    events.push(...body.items);
    cursor = body.next;
    if (!cursor) break;
  }
  return { events, more: Boolean(cursor) };
}

let opened = 0;

export async function showSession(sessionId, body, title, picked) {
  const mine = ++opened;
  title.textContent = `Session ${sessionId}`;
  body.replaceChildren(h("p", {}, "Reading…"));
  const [{ body: session }, { events, more }] = await Promise.all([ask(`/sessions/${encodeURIComponent(sessionId)}`), all(sessionId)]);
  if (mine !== opened) return;
  const found = steps(events);
  const told = h("dl", { class: "facts" });
  const facts = { Project: session.project, Machine: session.machine, Directory: session.cwd, Branch: session.git_branch, State: session.status, Events: number(session.event_count), Began: day(session.first_event_at), "Last event": day(session.last_event_at) };
  for (const [name, value] of Object.entries(facts)) if (value) told.append(h("dt", {}, name), h("dd", { dir: "auto" }, value));
  const payload = h("div", { class: "payload", "aria-live": "polite" });
  const look = (step) => showPayload(step, payload).catch((error) => payload.replaceChildren(h("p", { role: "alert" }, error.message)));
  const list = h("ol", { class: "steps" }, found.map((step) => row(step, () => look(step))));
  body.replaceChildren(told, timeline(found, Math.max(300, body.clientWidth)), h("div", { class: "two" }, list, payload));
  if (more) list.append(h("li", { class: "gap" }, `only the first ${number(events.length)} events are shown`));
  const wanted = found.find((step) => step.events.some((event) => event.event_id === picked));
  if (wanted) {
    look(wanted);
    list.children[found.indexOf(wanted)].scrollIntoView({ block: "center" });
  }
}

function row(step, open) {
  const outcome = step.kind !== "call" ? "" : step.ok === null ? "running" : step.ok ? "ok" : "failed";
  return h("li", { class: `${step.kind} ${outcome}` },
    h("button", { type: "button", onclick: open },
      h("time", {}, clock(step.from)),
      step.lane && h("span", { class: "lane" }, step.lane),
      h("span", { class: "type" }, step.name ?? ""),
      h("span", { class: "what", dir: "auto" }, summary(step.events[0])),
      step.kind === "call" && h("span", { class: "outcome" }, [outcome, step.to && lasting(step.to - step.from)].filter(Boolean).join(" · "))));
}

function timeline(found, width) {
  if (!found.length) return h("p", {}, "No events.");
  const lanes = [...new Set(found.map((step) => step.lane))];
  const first = Math.min(...found.map((step) => step.from)), last = Math.max(...found.map((step) => step.to ?? step.from), first + 1);
  const left = Math.min(width / 3, 12 + 7 * Math.max(...lanes.map((name) => name.length), 4)), right = width - 10;
  const x = (at) => left + ((right - left) * (at - first)) / (last - first);
  const svg = s("svg", { class: "timeline", viewBox: `0 0 ${width} ${lanes.length * 18 + 18}`, role: "img", "aria-label": `${found.length} steps in ${lasting(last - first)}` });
  lanes.forEach((name, index) => svg.append(s("text", { class: "tick", x: left - 6, y: index * 18 + 12, "text-anchor": "end" }, name.slice(0, Math.floor((left - 12) / 7)) || "main")));
  for (const step of found) {
    const y = lanes.indexOf(step.lane) * 18 + 3;
    const wide = Math.max(2, x(step.to ?? last) - x(step.from));
    svg.append(s("rect", { class: step.kind === "call" ? (step.ok === false ? "bad" : "good") : step.kind, x: x(step.from), y, width: step.kind === "call" ? wide : 2, height: 12 }, s("title", {}, `${clock(step.from)} ${step.name ?? ""} ${step.to ? lasting(step.to - step.from) : ""}`)));
  }
  svg.append(s("text", { class: "tick", x: left, y: lanes.length * 18 + 14 }, clock(first)), s("text", { class: "tick", x: right, y: lanes.length * 18 + 14, "text-anchor": "end" }, clock(last)));
  return svg;
}

let looked = 0;

export async function showPayload(step, box) {
  const mine = ++looked;
  step.events = await Promise.all(step.events.map(async (event) => ("payload" in event ? event : (await ask(`/events/${event.event_id}`)).body)));
  if (mine !== looked) return;
  box.replaceChildren(...step.events.map((event) => {
    const text = h("pre", { dir: "auto" });
    const raw = () => JSON.stringify(event.payload), pretty = () => JSON.stringify(event.payload, null, 2);
    const set = (make) => { text.textContent = make(); };
    set(pretty);
    const copied = async () => { // browsers give a clipboard to https and to this machine alone
      try {
        await navigator.clipboard.writeText(raw());
        copy.textContent = "Copied";
      } catch {
        copy.textContent = "The browser does not let a page copy here";
      }
    };
    const copy = h("button", { type: "button", onclick: copied }, "Copy");
    return h("section", {},
      h("h3", {}, event.event_type, " ", h("small", {}, event.event_id)),
      h("div", { class: "choices" }, h("button", { type: "button", onclick: () => set(pretty) }, "Pretty"), h("button", { type: "button", onclick: () => set(raw) }, "Raw"), copy),
      text);
  }));
}
