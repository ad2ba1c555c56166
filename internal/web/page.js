// The page renders /api/v1/status every few seconds. What came from the network or from
// a rule becomes text or the value of an attribute, never markup.
"use strict";

const refreshEvery = 3000; // ms
const answerWithin = 5000; // ms
const loopBound = 10; // s: if the status is older than that, the loop hangs
const nowFor = 1; // s: older counts of sockets are shown with their age

// In the order in which they are shown; each has its colour in page.css.
const states = [
  "close-wait", "time-wait", "established", "fin-wait-1", "fin-wait-2", "last-ack",
  "closing", "syn-sent", "syn-recv", "listening", "closed",
];

const resting = new Set(["listening", "closed"]);

let status = null; // the last one received
let trouble = ""; // why none was received after it
const pressed = new Map(); // state -> shown or not, if its button was pressed
let restingOpen = false; // the rules that match nothing are unfolded
let pointed = null; // index into the history

// --- Elements ---

// printable takes the characters out of a text that change how the page reads: U+202E in
// the name of a process would turn the rest of its line around.
const printable = (text) => String(text).replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, "\uFFFD");

const nodes = (children) => children.flat(Infinity).filter((c) => c !== null && c !== "")
  .map((c) => (c instanceof Node ? c : document.createTextNode(printable(c))));

function element(namespace, tag, attributes, children) {
  const e = document.createElementNS(namespace, tag);
  for (const [name, value] of Object.entries(attributes)) {
    e.setAttribute(name, printable(value));
  }
  e.append(...nodes(children));
  return e;
}

const html = (tag, attributes, ...children) => element("http://www.w3.org/1999/xhtml", tag, attributes, children);
// foreign isolates a text whose direction of writing is not known.
const foreign = (text, attributes = {}) => html("bdi", attributes, text || "");
const svg = (tag, attributes, ...children) => element("http://www.w3.org/2000/svg", tag, attributes, children);

// show gives parent the wanted children and leaves alone those that are right already:
// focus and selected text stay where they are.
function show(parent, ...wanted) {
  wanted = nodes(wanted);
  const present = [...parent.childNodes];
  wanted.forEach((want, i) => {
    const have = present[i];
    if (!have) {
      parent.append(want);
    } else if (have.nodeName !== want.nodeName) {
      have.replaceWith(want);
    } else if (have.nodeType === Node.TEXT_NODE) {
      if (have.data !== want.data) have.data = want.data;
    } else {
      for (const { name } of [...have.attributes]) {
        if (!want.hasAttribute(name)) have.removeAttribute(name);
      }
      for (const { name, value } of want.attributes) {
        if (have.getAttribute(name) !== value) have.setAttribute(name, value);
      }
      show(have, ...want.childNodes);
    }
  });
  present.slice(wanted.length).forEach((extra) => extra.remove());
}

const at = (id) => document.getElementById(id);

// --- Words ---

const number = (n) => n.toLocaleString("en-US", { maximumFractionDigits: 1 });

function duration(seconds) {
  if (seconds > 0 && seconds < 1) return `${Math.ceil(1000 * seconds)}ms`;
  const s = Math.max(0, Math.floor(seconds));
  const two = (a, unit, b, small) => `${a}${unit}${b ? ` ${b}${small}` : ""}`;
  if (s >= 86400) return two(Math.floor(s / 86400), "d", Math.floor((s % 86400) / 3600), "h");
  if (s >= 3600) return two(Math.floor(s / 3600), "h", Math.floor((s % 3600) / 60), "m");
  if (s >= 60) return two(Math.floor(s / 60), "m", s % 60, "s");
  return `${s}s`;
}

// Ages count by the daemon's clock, from which the browser's may differ.
const since = (time) => duration((Date.parse(time) - Date.parse(status.time)) / -1000);

function clock(ms) {
  return new Date(ms).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
}

// timeOfDay includes the date if that is not today's.
function timeOfDay(time, now) {
  const date = new Date(time);
  const sameDay = date.toDateString() === new Date(now).toDateString();
  return date.toLocaleTimeString("en-GB") + (sameDay ? "" : `, ${date.toLocaleDateString("en-CA")}`);
}

const moment = (time) => html("time", { datetime: time, title: time }, timeOfDay(time, status.time));

const plural = (n, one) => `${number(n)} ${one}${n === 1 ? "" : "s"}`;
const badge = (kind, text) => html("span", { class: `badge ${kind}` }, text);

// --- Header and problems ---

// verdict sums the status up in a few words, and says how bad it is.
function verdict() {
  if (trouble || !status) return ["bad", trouble];
  const { paused } = status;
  const problems = status.problems.length - (paused ? 1 : 0); // which is one of them
  const firing = status.rules.reduce((sum, r) => sum + r.firing, 0);
  if (!paused && !problems && !status.ready) return ["waiting", "starting"];
  if (!paused && !problems && !firing) return ["good", "all well"];
  const words = [paused ? "paused" : problems ? "" : "no problems", problems ? plural(problems, "problem") : "", firing ? `${number(firing)} firing` : ""];
  return [paused || problems ? "bad" : "waiting", words.filter(Boolean).join(" · ")];
}

// sourceText says where sockets come from, once that is known.
function sourceText({ kind, reason, namespaces, older, lost, missed }) {
  if (!kind) return "";
  const some = (n, what) => (n ? `, ${number(n)} ${what}` : "");
  return [
    ` · ${kind}`,
    some(namespaces > 1 && namespaces, "network namespaces"),
    older && namespaces === 1 ? ", older connections by scans" : some(older, "with older connections by scans"),
    some(lost, "without room in the table"), some(missed, "missed by it"),
    reason ? ["; no events: ", foreign(reason)] : "",
  ];
}

function showHeader() {
  const [kind, text] = verdict();
  show(at("verdict"), badge(kind, text));
  document.body.className = trouble ? "stale" : "";
  if (!status) return;
  document.title = printable(`${text} · ${status.host} · sockdog`);
  const { path, built_in, loaded } = status.rules_file;
  const { scans } = status;
  show(
    at("about"),
    html("strong", {}, foreign(status.host)),
    ` · ${status.version} · up ${since(status.started)} · `,
    built_in ? plural(status.rules.length, "built-in rule") : [`${plural(status.rules.length, "rule")} of `, foreign(path)], ", ",
    `in force for ${since(loaded)} · `,
    scans.interval_seconds ? `scans every ${duration(scans.interval_seconds)}` : "no scans are needed",
    scans.failed ? `, ${number(scans.failed)} of ${number(scans.failed + scans.ok)} failed` : "",
    sourceText(status.source),
  );
}

function showParts() {
  const part = (to, name, n, kind = "") => html("a", { href: `#${to}`, class: kind }, `${name} `, html("b", {}, number(n)));
  show(
    at("parts"),
    part("problems", "Problems", status.problems.length, status.problems.length ? "bad" : ""),
    part("rules-title", "Rules", status.rules.length),
    part("sockets-title", "Plots", states.filter(shown).length),
    part("actions-title", "Actions", Math.min(mostActions, status.actions.length)),
  );
}

function showProblems() {
  const all = [["problem", status.problems], ["note", status.notes]];
  show(at("problems"), all.flatMap(([kind, list]) => list.map((p) => html(
    "article", { class: kind },
    p.text.split("\n").map((line, i) => html("p", {}, i ? foreign(line) : [html("strong", {}, foreign(line)), html("span", { class: "quiet" }, " ", html("code", {}, foreign(p.kind)), ` for ${since(p.since)}`)])),
    p.cure ? html("p", {}, foreign(p.cure)) : null,
  ))));
}

// --- Rules ---

// cannot is an action of an enabled rule that the kernel or the privileges do not allow:
// that matters more than the mode.
const cannot = (r) => (r.mode === "enabled" ? Object.keys(r.actions).find((action) => status.action_possible[action] === false) : undefined);

const modes = { enabled: ["good", "enabled"], dry_run: ["waiting", "dry run"], stopped: ["bad", "stopped"], disabled: ["off", "disabled"] };

// rank sorts the rules: those that fire or were stopped come first.
function rank(r) {
  if (r.firing || r.mode === "stopped") return 0;
  if (r.pending) return 1;
  return r.sockets || r.candidates || skipped(r).length ? 2 : 3;
}

// mostResting is how many rules that match nothing are shown unfolded.
const mostResting = 5;

function showRules() {
  const ranked = status.rules.toSorted((a, b) => rank(a) - rank(b));
  const held = ranked.filter((r) => rank(r) < 3);
  const folds = ranked.length - held.length > mostResting;
  show(at("rules"), ranked.length ? (folds ? held : ranked).map(rule) : html("p", { class: "quiet" }, "There are no rules."));
  show(at("resting"), folds ? html(
    "details", restingOpen ? { open: "" } : {},
    html("summary", {}, `${plural(ranked.length - held.length, "rule")} that match nothing`),
    html("div", { class: "rules" }, ranked.slice(held.length).map(rule)),
  ) : null);
}

function rule(r) {
  const groups = r.groups.filter(near);
  const fact = (name, value, kind) => html("div", { class: kind }, html("dt", {}, name), html("dd", {}, value));
  return html(
    "article", { class: `rule ${r.mode}`, "data-rule": r.name },
    html(
      "div", { class: "what" },
      html("h3", {}, r.name, " ", badge(...(cannot(r) ? ["bad", `cannot ${cannot(r)}`] : modes[r.mode] || ["off", r.mode])), r.firing ? badge("bad", `${number(r.firing)} firing`) : null, r.pending ? badge("waiting", `${number(r.pending)} pending`) : null),
      r.description ? html("p", {}, foreign(r.description)) : null,
      r.text ? html("p", { class: "text" }, foreign(r.text)) : null,
      heldBy(r),
      html("p", { class: "quiet" }, results(r)),
    ),
    r.whole ? null : html(
      "dl", {},
      fact("match", number(r.sockets), r.sockets ? "some" : "none"),
      fact("waiting", waiting(r), r.candidates > r.sockets ? "some" : "none"),
      fact("oldest", r.oldest_seconds ? duration(r.oldest_seconds) : "–", r.oldest_seconds ? "some" : "none"),
    ),
    groups.length ? html("ul", { class: "groups", "aria-label": `Groups of ${r.name}` }, groups.map((g) => group(g, r.whole ? "all" : "all sockets"))) : null,
  );
}

// heldBy is who holds the sockets that match, most first, where anything is known of that.
function heldBy(r) {
  const all = r.held_by || [];
  if (all.every((p) => p.process === "unknown")) return null;
  return html("p", { class: "held-by" }, "held by ", all.map((p, i) => [i ? ", " : "", foreign(p.process), ` ${number(p.sockets)}`]));
}

// waiting is how many sockets match in all but their age, and when the first falls due.
function waiting(r) {
  const n = r.candidates - r.sockets;
  const due = r.first_due_seconds;
  const when = due <= 0 ? "some due since the last scan" : due < 1 ? "first due now" : `first due in ${duration(due)}`;
  return [number(Math.max(0, n)), n > 0 && due !== undefined ? html("small", {}, when) : null];
}

// words are the action and its result: "kill done", "would kill".
const words = (action, result) => ({ would: `would ${action}`, gone: `gone before ${action}`, changed: `changed before ${action}` }[result] || `${action} ${result}`);

// waits are the reasons for which an action is done later (status.Waits).
const waits = new Set(["limit", "limit_of_all_rules", "limit_of_unseen", "share", "max_matches", "canary", "paused", "stopped"]);

// skipped are the reasons for which the rule left sockets alone, and of how many.
const skipped = (r) => Object.entries(r.held_back).filter(([reason, n]) => n && !waits.has(reason));

// results counts what the rule has done and skipped since the daemon started.
function results(r) {
  const lines = Object.entries(r.actions).flatMap(([action, { would, held, ...others }]) => {
    // Whether receivers took an alert is counted apart.
    const word = (result) => (action === "alert" && result === "done" ? "raised" : result);
    const some = Object.entries(others).filter(([, n]) => n).map(([result, n]) => `${number(n)} ${word(result)}`);
    return [
      some.length || !would ? `${action}: ${some.join(", ") || "none yet"}` : [],
      would ? `${r.mode === "dry_run" ? "" : "as a dry run: "}${words(action, "would")} ${number(would)}` : [],
    ].flat();
  });
  if (r.held) lines.push(`${number(r.held)} held back`); // now
  const left = skipped(r);
  if (left.length) lines.push(`skipped: ${left.map(([reason, n]) => `${number(n)} ${reason.replaceAll("_", " ")}`).join(", ")}`);
  return lines.join(" · ");
}

// about is what the sockets of a group have in common.
const about = (labels) => Object.entries(labels).map(([name, value]) => `${name}=${value}`).join(" ");

// near tells whether a group is worth a line: a quiet one if it has come half of the way
// to all thresholds.
const near = (g) => g.phase !== "quiet" || g.conditions.every((c) => c.near >= 0.5);

function group(g, all) {
  const labels = about(g.labels) || all;
  return html(
    "li", { class: `phase-${g.phase}` },
    html(
      "p", {}, foreign(labels, { class: "labels" }), " ",
      g.phase === "quiet" ? null : badge(g.phase === "firing" ? "bad" : "waiting", `${g.phase} for ${since(g.since)}`),
    ),
    g.conditions.map((c) => condition(c, labels)),
  );
}

function condition(c, of) {
  const unit = c.unit || "";
  const text = `${c.metric} ${number(c.value)}${unit} (${c.op} ${number(c.threshold)}${unit})`;
  const percent = Math.round(100 * c.near);
  return html(
    "div", { class: "condition" },
    svg(
      "svg", {
        class: "bar", viewBox: "0 0 100 1", preserveAspectRatio: "none", role: "meter", "aria-label": `${c.metric} of ${of}`,
        "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": percent, "aria-valuetext": text,
      },
      svg("rect", { width: percent, height: 1 }),
    ),
    html("span", {}, text),
  );
}

// --- Actions ---

// mostActions is how many are shown: the journal has all.
const mostActions = 10;

function showActions() {
  if (!status.actions.length) {
    show(at("actions"), html("p", { class: "quiet" }, "No actions yet."));
    return;
  }
  const good = new Set(["done", "gone", "resolved"]);
  const bad = new Set(["failed", "firing"]);
  const several = !status.netns; // network namespaces are watched
  const cell = (name, ...children) => html("td", { "data-name": name }, ...children);
  show(at("actions"), html(
    "table", {},
    html("thead", {}, html("tr", {}, ["Time", "Rule", "Action", "Connection", "Held by", "Reason"].map((name) => html("th", { scope: "col" }, name)))),
    html("tbody", {}, status.actions.slice(0, mostActions).map((a) => html(
      "tr", {},
      cell("Time", moment(a.time)),
      cell("Rule", a.rule),
      cell("Action", badge(bad.has(a.result) ? "bad" : good.has(a.result) ? "good" : "waiting", words(a.action, a.result))),
      cell("Connection",
        a.group ? foreign(about(a.group) || "all sockets") : [html("span", { class: "address" }, a.src), " → ", html("span", { class: "address" }, a.dst)],
        several && a.netns ? html("span", { class: "quiet" }, " in ", foreign(a.netns_name || a.netns)) : ""),
      cell("Held by", a.pid ? [foreign(a.comm), `[${a.pid}]`, a.pod || a.container ? html("span", { class: "quiet" }, " in ", foreign(a.pod || a.container)) : ""] : "–"),
      cell("Reason", foreign(a.reason)),
    ))),
  ));
}

// --- Refresh ---

function showAll() {
  showHeader();
  if (!status) return;
  showParts();
  showProblems();
  showRules();
  showPlots();
  showActions();
}

async function refresh() {
  const before = status;
  let answer, text;
  try {
    answer = await fetch("api/v1/status", { cache: "no-store", signal: AbortSignal.timeout(answerWithin) });
    text = await answer.text();
  } catch (error) {
    console.warn(error);
    trouble = `no answer from the daemon${before ? `; this page is of ${timeOfDay(before.time, Date.now())}` : ""}`;
    showAll();
    return;
  }
  try {
    if (answer.ok) {
      status = JSON.parse(text);
      // A new daemon serves a page of its own version.
      if (before && status.version && status.version !== before.version) location.reload();
      const hanging = (Date.parse(answer.headers.get("Date")) - Date.parse(status.time)) / 1000;
      trouble = hanging > loopBound ? `the watch loop has not turned for ${duration(hanging)}` : "";
    } else {
      trouble = `the daemon says: ${text.trim().slice(0, 200) || answer.status}`;
    }
    showAll();
  } catch (error) {
    // The daemon was replaced by one of another version, or by something else.
    console.warn(error);
    status = before;
    trouble = "the daemon has another version than this page: reload it";
    showAll();
  }
}

async function live() {
  try {
    if (!document.hidden) await refresh();
  } finally {
    setTimeout(live, refreshEvery);
  }
}

at("states").addEventListener("click", (event) => {
  const state = event.target.closest("button")?.dataset.state;
  if (!state) return;
  pressed.set(state, !shown(state));
  showParts();
  showPlots();
});

// The event does not bubble.
at("resting").addEventListener("toggle", (event) => { restingOpen = event.target.open; }, true);

function point(index) {
  if (index === pointed || !status) return;
  pointed = index;
  showPlots();
}

function pointAt(event) {
  const plot = event.target.closest("#plots svg");
  if (!plot) return point(null);
  const box = plot.getBoundingClientRect();
  const share = (event.clientX - box.left - ground.left) / (box.width - ground.left - ground.right);
  const last = plot.dataset.count - 1;
  point(Math.min(last, Math.max(0, Math.round(share * last))));
}

at("plots").addEventListener("pointermove", pointAt);
document.addEventListener("pointerdown", pointAt);
// A finger leaves when it is lifted, and its reading must stay.
at("plots").addEventListener("pointerleave", (event) => event.pointerType === "touch" || point(null));
at("plots").addEventListener("keydown", (event) => {
  const plot = event.target.closest("svg");
  if (!plot) return;
  const last = plot.dataset.count - 1;
  const step = { ArrowLeft: -1, ArrowRight: 1, PageUp: -20, PageDown: 20, Home: -Infinity, End: Infinity }[event.key];
  if (event.key === "Escape") point(null);
  if (step === undefined) return;
  event.preventDefault();
  point(Math.min(last, Math.max(0, (pointed ?? last) + step)));
});
addEventListener("resize", () => status && showPlots());
document.addEventListener("visibilitychange", () => document.hidden || refresh());
at("verdict").textContent = "Loading…";
live();
