// The page: is it working, what is happening, what happened, how it goes over time.
import { ask, every } from "./api.js";
import { bars, heat, stacked } from "./charts.js";
import { $, day, h, lasting, number, when } from "./dom.js";
import { Feed } from "./feed.js";
import { showSession } from "./session.js";

const RANGES = { "1 h": 3600, "24 h": 86400, "7 d": 604800, "30 d": 2592000 };
const TEXTS = { broker: "Broker", topics: "Topics", intake: "Intake", dedupe: "Dedup", sink: "Writers", database: "Postgres", aggregates: "Figures" };
const FILTERS = ["session", "project", "type", "tool", "text"];
const state = new URLSearchParams(location.search);
// While Postgres is away: the most events seen in SQLite, and what the workers had brought back when it began.
let pending = 0, before = null;

// --- is it working? --------------------------------------------------------------------------------------------------

async function working() {
  let answers;
  try {
    answers = await Promise.all([ask("/ready"), ask("/stats")]);
  } catch (error) {
    $("checks").replaceChildren(h("li", { class: "bad" }, "no answer"));
    say("bad", `The server does not answer: ${error.message}. What is shown below is old.`);
    return;
  }
  const [{ body: ready }, { body: stats }] = answers;
  const ledger = stats.ledger, lag = ledger.pending;
  const balance = ledger.balanced === null ? (lost(stats) === "0 lost" ? "nothing lost" : "being counted") : ledger.balanced ? "nothing lost" : `${number(Math.abs(ledger.difference))} unaccounted`;
  $("checks").replaceChildren(
    ...ready.checks.map((check) => h("li", { class: check.ok ? "ok" : "bad", title: `${check.detail} ${check.remedy}`.trim() }, TEXTS[check.name] ?? check.name)),
    h("li", { class: ledger.balanced === false && ledger.difference > 0 ? "bad" : "ok", title: `accepted ${number(ledger.accepted)}, stored ${number(ledger.stored)}, duplicates ${number(ledger.duplicates)}, rejected ${number(ledger.rejected)}, dead ${number(ledger.dead)}, pending ${number(ledger.pending)}` }, balance),
    h("li", { class: lag > 10_000 ? "bad" : "ok", title: "accepted and not yet in a database" }, `${number(lag)} under way`));
  banner(ready, stats);
  $("empty").hidden = ledger.accepted > 0;
}

function say(kind, text) {
  $("banner").className = `banner ${kind}`;
  $("banner").textContent = text;
  $("banner").hidden = false;
}

// What the ledger says is lost: nothing, a number, or nobody can tell just now. While Postgres alone is away, what it
// told last can only be too little: where that adds up, nothing is lost.
function lost({ ledger, stale }) {
  const adds = ledger.difference <= 0 && stale.every((part) => part === "postgres");
  return ledger.balanced === null && !adds ? "losses are being counted" : `${number(Math.max(0, ledger.difference))} lost`;
}

function banner(ready, stats) {
  const waiting = stats.parts.stored.sqlite ?? 0, box = $("banner");
  const synced = Object.values(stats.workers).reduce((sum, worker) => sum + (worker.persist?.sync?.synced ?? 0), 0);
  const database = ready.checks.find((check) => check.name === "database");
  if (database && !database.ok && /away|being brought back/.test(database.detail)) {
    pending = Math.max(pending, waiting);
    before ??= synced;
    say("warn", /away/.test(database.detail) ? `Postgres is away: writing to SQLite, ${number(waiting)} there, ${lost(stats)}.` : `Postgres is back: ${number(waiting)} still to sync, ${lost(stats)}.`);
  } else if (pending) {
    if (stats.ledger.balanced === null) return;
    say("good", `Postgres is back: synced ${number(Math.max(pending, synced - before))}, ${lost(stats)}.`);
    pending = 0;
    setTimeout(() => { if (box.classList.contains("good")) box.hidden = true; }, 20_000);
  } else if (ready.status === "down" || ready.status === "starting") {
    const bad = ready.checks.find((check) => !check.ok);
    say("bad", `${ready.status === "down" ? "Down" : "Starting"}: ${bad?.detail ?? ""} ${bad?.remedy ?? ""}`);
  } else if (!box.classList.contains("good")) box.hidden = true;
  if (!pending) before = null;
}

// --- what is happening -----------------------------------------------------------------------------------------------

function numbers(stats) {
  const told = {
    "events this minute": stats.this_minute.events, "last minute": stats.last_minute.events, "last hour": stats.last_hour.events,
    "prompts, last hour": stats.last_hour.prompts, "sessions, last hour": stats.last_hour.sessions,
  };
  $("numbers").replaceChildren(...Object.entries(told).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, number(value)))));
}

const feed = new Feed((eventId, sessionId) => open(sessionId, eventId));

const filters = () => Object.fromEntries(FILTERS.map((name) => [name, state.get(name) ?? ""]));

async function history(wanted) {
  const { body } = await ask("/events", { session_id: wanted.session, event_type: wanted.type, tool_name: wanted.tool, project: wanted.project, limit: 50 });
  const shown = body.items.map((event) => ({ ...event, occurred_at: Date.parse(event.occurred_at), project: (event.cwd ?? "").split("/").filter(Boolean).at(-1) }));
  return shown.reverse().filter((event) => !wanted.text || JSON.stringify(event).toLowerCase().includes(wanted.text.toLowerCase()));
}

// The stream first and the past behind it, so that nothing falls between the two.
let following = 0;
async function follow() {
  const mine = ++following, wanted = filters();
  feed.clear();
  await feed.watch(wanted, numbers);
  const past = await history(wanted).catch(() => []);
  if (mine === following) feed.before(past);
}

let typing;
function filterChanged() {
  for (const name of FILTERS) {
    const value = $("filters").elements[name].value.trim();
    if (value) state.set(name, value);
    else state.delete(name);
  }
  keep();
  clearTimeout(typing);
  typing = setTimeout(follow, 250);
}

function keep() {
  const text = state.toString();
  window.history.replaceState(null, "", text ? `?${text}` : location.pathname);
}

// --- how it goes over time -------------------------------------------------------------------------------------------

async function overTime() {
  const seconds = RANGES[state.get("range")] ?? RANGES["24 h"];
  const since = Math.floor(Date.now() / 1000 - seconds) * 1000;
  const project = state.get("project") ?? "";
  const interval = seconds <= 3600 ? "minute" : seconds <= 604800 ? "hour" : "day";
  const [usage, sessions, tools, week] = await Promise.all([
    ask("/analytics/usage", { group_by: "type", interval, since, project }),
    ask("/analytics/usage", { metric: "sessions", interval, since, project }),
    ask("/tools", { interval, since, project }),
    ask("/analytics/usage", { interval: "hour", since: Math.floor(Date.now() / 1000 - 604800) * 1000, project }),
  ]);
  stacked($("chart-events"), { ...usage.body, series: most(usage.body.series, 7), label: "events" });
  stacked($("chart-sessions"), { ...sessions.body, label: "sessions" });
  bars($("chart-tools"), { label: "tools", rows: tools.body.items.map((row) => ({ ...row, p50: lasting(row.p50_ms), p95: lasting(row.p95_ms), p99: lasting(row.p99_ms) })) });
  heat($("chart-week"), { label: "events by hour", values: week.body.buckets.map((at, index) => ({ at, value: week.body.series[0].values[index] })) });
  names("types", usage.body.series.map((one) => one.name));
  names("tools", tools.body.items.map((row) => row.name));
}

// As many series as there are colours: the largest, and the others together.
function most(series, count) {
  if (series.length <= count + 1) return series;
  const others = series.slice(count);
  return [...series.slice(0, count), { name: "others", values: others[0].values.map((_, index) => others.reduce((sum, one) => sum + one.values[index], 0)) }];
}

function names(id, values) {
  $(id).replaceChildren(...values.slice(0, 50).map((value) => h("option", { value })));
}

function ranges() {
  $("ranges").replaceChildren(...Object.keys(RANGES).map((name) => h("button", {
    type: "button", "aria-pressed": String(name === (state.get("range") ?? "24 h")),
    onclick: () => { state.set("range", name); keep(); ranges(); overTime().catch(failed); },
  }, name)));
}

// --- what happened ---------------------------------------------------------------------------------------------------

let next = "";

async function sessions(more = false) {
  const asked = state.get("status") ?? "";
  const { body } = await ask("/sessions", { limit: 25, status: asked, cursor: more ? next : "" });
  if (asked !== (state.get("status") ?? "")) return;
  const rows = body.items.map((one) => h("tr", { tabindex: 0, onclick: () => open(one.session_id), "data-session": one.session_id },
    h("td", { class: "id", dir: "auto" }, one.session_id), h("td", { dir: "auto" }, one.project ?? ""), h("td", { dir: "auto" }, one.machine ?? ""), h("td", {}, h("span", { class: `state ${one.status}` }, one.status)),
    h("td", { class: "number" }, number(one.event_count)), h("td", { title: day(one.first_event_at) }, when(one.first_event_at)), h("td", { title: day(one.last_event_at) }, when(one.last_event_at))));
  if (more) $("session-rows").append(...rows);
  else if ($("session-rows").children.length <= 25) $("session-rows").replaceChildren(...rows);
  if (more || !next) next = body.next ?? "";
  $("more-sessions").hidden = !next;
  names("projects", [...new Set(body.items.map((one) => one.project).filter(Boolean))]);
}

function statusChanged() {
  if ($("status").value) state.set("status", $("status").value);
  else state.delete("status");
  keep();
  next = "";
  $("session-rows").replaceChildren();
  sessions().catch(failed);
}

function failed(error) {
  say("bad", error.message);
}

let finding;
function find() {
  clearTimeout(finding);
  const q = $("find").value.trim();
  if (q) state.set("find", q);
  else state.delete("find");
  keep();
  finding = setTimeout(() => search(q), q ? 250 : 0);
}

async function search(q) {
  const box = $("hits"), say = $("find-state");
  say.hidden = box.hidden = !q;
  if (!q) return;
  try {
    const { body } = await ask("/search", { q, limit: 20, fields: "event_id,session_id,event_type,occurred_at,snippet" });
    if (q !== (state.get("find") ?? "")) return;
    say.textContent = body.items.length ? (body.next ? "The latest 20" : `${body.items.length} found`) : "Nothing found";
    box.replaceChildren(...body.items.map((hit) => h("li", {}, h("button", { type: "button", onclick: () => open(hit.session_id, hit.event_id) },
      h("time", {}, day(hit.occurred_at)), h("span", { class: "type" }, hit.event_type), h("span", { class: "what", dir: "auto" }, hit.snippet)))));
  } catch (error) {
    say.textContent = error.message;
    box.replaceChildren();
  }
}

async function open(sessionId, eventId) {
  const box = $("detail");
  if (!box.open) box.showModal();
  state.set("open", sessionId);
  keep();
  try {
    await showSession(sessionId, $("detail-body"), $("detail-title"), eventId);
  } catch (error) {
    $("detail-body").replaceChildren(h("p", { role: "alert" }, error.message));
  }
}

// --- keys, theme, beginning ------------------------------------------------------------------------------------------

function pause() {
  feed.pause(!feed.paused);
  $("pause").setAttribute("aria-pressed", String(feed.paused));
  $("pause").textContent = feed.paused ? "Go on" : "Pause";
}

function move(by) {
  const rows = [...$("events").querySelectorAll("li:not(.gap)")];
  const at = rows.indexOf(document.activeElement);
  rows[Math.max(0, Math.min(rows.length - 1, at + by))]?.focus();
}

document.addEventListener("keydown", (key) => {
  if (key.target.matches("input, select") || key.ctrlKey || key.metaKey || key.altKey) return;
  const does = { "/": () => $("filters").elements.text.focus(), p: pause, j: () => move(1), k: () => move(-1), Enter: () => document.activeElement.matches("li, tr") && document.activeElement.click() }[key.key];
  if (does && !(key.key === "Enter" && document.activeElement.matches("button, a, summary"))) {
    key.preventDefault();
    does();
  }
});

// For Claude Code, an event a line. SessionStart knows commands only.
function settings(url) {
  const http = ["UserPromptSubmit", "PreToolUse", "PostToolUse", "PostToolUseFailure", "Notification", "SubagentStop", "Stop", "SessionEnd"];
  const curl = `curl -s -m 1 -H 'Content-Type: application/json' --data-binary @- ${url}`;
  const hooks = [["SessionStart", { type: "command", command: curl }], ...http.map((name) => [name, { type: "http", url, timeout: 2 }])];
  return `{"hooks": {\n${hooks.map(([name, hook]) => `  ${JSON.stringify(name)}: [{"hooks": [${JSON.stringify(hook)}]}]`).join(",\n")}\n}}`;
}

function theme(name) {
  document.documentElement.dataset.theme = name;
  localStorage.setItem("theme", name);
}

$("theme").addEventListener("click", () => {
  const dark = document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  theme(dark ? "light" : "dark");
});
if (localStorage.getItem("theme")) theme(localStorage.getItem("theme"));
$("pause").addEventListener("click", pause);
$("close").addEventListener("click", () => $("detail").close());
$("detail").addEventListener("close", () => { state.delete("open"); keep(); });
$("more-sessions").addEventListener("click", () => sessions(true).catch(failed));
$("status").value = state.get("status") ?? "";
$("status").addEventListener("change", statusChanged);
$("find").value = state.get("find") ?? "";
$("find").addEventListener("input", find);
for (const name of FILTERS) $("filters").elements[name].value = state.get(name) ?? "";
$("filters").addEventListener("input", filterChanged);
$("filters").addEventListener("submit", (event) => event.preventDefault());
$("filters").addEventListener("reset", () => setTimeout(filterChanged));
$("how").textContent = settings(`${location.origin}/hooks/claude-code`);
$("try").textContent = `curl -X POST ${location.origin}/events -H 'Content-Type: application/json' -d '{"session_id":"hello","event_type":"user_prompt","payload":{"prompt":"Hello"}}'`;

let resizing;
addEventListener("resize", () => {
  clearTimeout(resizing);
  resizing = setTimeout(() => overTime().catch(failed), 300);
});

ranges();
follow();
every(2000, working);
every(10_000, overTime);
every(5000, () => sessions());
if (state.get("find")) search(state.get("find"));
if (state.get("open")) open(state.get("open"));
