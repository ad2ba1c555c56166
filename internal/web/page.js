// The page is made anew from /api/v1/status every few seconds. Everything that came
// from the network or from a rule becomes text or the value of an attribute, never
// markup.
"use strict";

const refreshEvery = 3000; // ms
const answerWithin = 5000; // ms
const loopBound = 10; // s: a status older than that means that the loop hangs
const nowFor = 10; // s: sockets that were counted before that are not those of now

// In the order in which to show them; each has a colour of its own in page.css.
const states = [
  "close-wait", "time-wait", "established", "fin-wait-1", "fin-wait-2", "last-ack",
  "closing", "syn-sent", "syn-recv", "listening", "closed",
];

const resting = new Set(["listening", "closed"]);

let status = null; // the last one that came
let trouble = ""; // why none came after it
const pressed = new Map(); // state -> shown or not, where somebody has pressed it
let restingOpen = false; // the rules that hold nothing are unfolded
let pointed = null; // index into the history

// --- Elements ---

// printable keeps what stands in a process's name from governing the page: U+202E
// would turn the rest of its line around.
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
// foreign is text in whatever direction it is written: that of the page goes on.
const foreign = (text, attributes = {}) => html("bdi", attributes, text || "");
const svg = (tag, attributes, ...children) => element("http://www.w3.org/2000/svg", tag, attributes, children);

// show makes the children of parent what they should be, and leaves alone those
// that are so already: focus and selected text stay where they are.
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

// Ages count from the daemon's clock: the browser's may be another.
const since = (time) => duration((Date.parse(time) - Date.parse(status.time)) / -1000);

function clock(ms) {
  return new Date(ms).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
}

// timeOfDay has the date with it where that is another than the one of now.
function timeOfDay(time, now) {
  const date = new Date(time);
  const sameDay = date.toDateString() === new Date(now).toDateString();
  return date.toLocaleTimeString("en-GB") + (sameDay ? "" : `, ${date.toLocaleDateString("en-CA")}`);
}

const moment = (time) => html("time", { datetime: time, title: time }, timeOfDay(time, status.time));

const plural = (n, one) => `${number(n)} ${one}${n === 1 ? "" : "s"}`;
const badge = (kind, text) => html("span", { class: `badge ${kind}` }, text);

// --- Header and problems ---

// verdict is how things stand in a few words, and how bad that is.
function verdict() {
  if (trouble || !status) return ["bad", trouble];
  const problems = status.problems.length;
  const firing = status.rules.reduce((sum, r) => sum + r.firing, 0);
  if (!problems && !status.ready) return ["waiting", "starting"];
  if (!problems && !firing) return ["good", "all well"];
  return [problems ? "bad" : "waiting", `${problems ? plural(problems, "problem") : "no problems"}${firing ? ` · ${number(firing)} firing` : ""}`];
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
    ` · ${status.version} · up ${since(status.started)} · ${plural(status.rules.length, "rule")} `,
    built_in ? "that are built in" : ["of ", foreign(path)], ", ",
    `in force for ${since(loaded)} · `,
    scans.interval_seconds ? `scans every ${duration(scans.interval_seconds)}` : "no scans are needed",
    scans.failed ? `, ${number(scans.failed)} of ${number(scans.failed + scans.ok)} failed` : "",
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
    p.text.split("\n").map((line, i) => html("p", {}, i ? foreign(line) : [html("strong", {}, foreign(line)), html("span", { class: "quiet" }, ` for ${since(p.since)}`)])),
    p.cure ? html("p", {}, foreign(p.cure)) : null,
  ))));
}

// --- Rules ---

// cannot is an action that a rule in force has and nothing allows: that is worse than
// its mode.
const cannot = (r) => (r.mode === "enabled" ? Object.keys(r.actions).find((action) => status.action_possible[action] === false) : undefined);

const modes = { enabled: ["good", "enabled"], dry_run: ["waiting", "dry run"], stopped: ["bad", "stopped"], disabled: ["off", "disabled"] };

// rank is where a rule stands: what fires, or was stopped, comes first.
function rank(r) {
  if (r.firing || r.mode === "stopped") return 0;
  if (r.pending) return 1;
  return r.sockets || r.candidates ? 2 : 3;
}

// mostResting is how many rules that hold nothing are shown unfolded.
const mostResting = 5;

function showRules() {
  const ranked = status.rules.toSorted((a, b) => rank(a) - rank(b));
  const held = ranked.filter((r) => rank(r) < 3);
  const folds = ranked.length - held.length > mostResting;
  show(at("rules"), ranked.length ? (folds ? held : ranked).map(rule) : html("p", { class: "quiet" }, "There are no rules."));
  show(at("resting"), folds ? html(
    "details", restingOpen ? { open: "" } : {},
    html("summary", {}, `${plural(ranked.length - held.length, "rule")} that hold nothing`),
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
      html("p", { class: "quiet" }, deeds(r)),
    ),
    html(
      "dl", {},
      fact("match", number(r.sockets), r.sockets ? "some" : "none"),
      fact("waiting", waiting(r), r.candidates > r.sockets ? "some" : "none"),
      fact("oldest", r.oldest_seconds ? duration(r.oldest_seconds) : "–", r.oldest_seconds ? "some" : "none"),
    ),
    groups.length ? html("ul", { class: "groups", "aria-label": `Groups of ${r.name}` }, groups.map(group)) : null,
  );
}

// waiting is how many sockets match in all but their age, and when the first will.
function waiting(r) {
  const n = r.candidates - r.sockets;
  const due = r.first_due_seconds;
  const when = due < 1 ? "now" : `in ${duration(due)}`;
  return [number(Math.max(0, n)), n > 0 && due !== undefined ? html("small", {}, `first due ${when}`) : null];
}

// words are what became of an action as one reads it: "kill done", "would kill".
const words = (action, result) => ({ would: `would ${action}`, gone: `gone before ${action}`, changed: `changed before ${action}` }[result] || `${action} ${result}`);

// deeds is what the rule has done, and what it has spared, since the daemon started.
function deeds(r) {
  const lines = Object.entries(r.actions).flatMap(([action, { would, held, ...results }]) => {
    // Whether a receiver took an alert is told apart.
    const word = (result) => (action === "alert" && result === "done" ? "raised" : result);
    const some = Object.entries(results).filter(([, n]) => n).map(([result, n]) => `${number(n)} ${word(result)}`);
    return [
      some.length || !would ? `${action}: ${some.join(", ") || "nothing yet"}` : [],
      would ? `${words(action, "would")} ${number(would)}` : [],
    ].flat();
  });
  if (r.held) lines.push(`${number(r.held)} held back by a limit`); // now
  const spared = Object.entries(r.held_back).filter(([reason, n]) => n && !reason.startsWith("limit"));
  if (spared.length) lines.push(`spared: ${spared.map(([reason, n]) => `${number(n)} ${reason.replaceAll("_", " ")}`).join(", ")}`);
  return lines.join(" · ");
}

// about is what the sockets of a group have in common.
const about = (labels) => Object.entries(labels).map(([name, value]) => `${name}=${value}`).join(" ") || "all sockets";

// near is whether a group is worth a line: of those that are quiet, from half of its
// thresholds on.
const near = (g) => g.phase !== "quiet" || g.conditions.every((c) => c.near >= 0.5);

function group(g) {
  const labels = about(g.labels);
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

// --- Plots ---

// counted is when the sockets were: where that is dear, it is not done often.
const counted = () => (Date.parse(status.time) - Date.parse(status.sockets_at) > nowFor * 1000 ? `${since(status.sockets_at)} ago` : "now");

// shown are, unless pressed, the states that had a socket and can be of trouble.
const shown = (state) => pressed.get(state) ?? (!resting.has(state) && (status.sockets[state] > 0 || series(state).some((n) => n > 0)));
const series = (state) => status.history?.sockets[state] || [];

function showPlots() {
  show(at("states"), states.map((state) => {
    const now = status.sockets[state];
    return html(
      "button", { type: "button", "data-state": state, "aria-pressed": shown(state) },
      html("span", { class: `swatch ${state}`, "aria-hidden": "true" }), `${state} `,
      html("span", { class: "quiet" }, now === undefined ? "not read" : number(now)),
    );
  }));
  const which = states.filter(shown);
  show(at("plots"), which.length && status.history
    ? which.map(plot)
    : html("p", { class: "quiet" }, which.length ? "Nothing was read yet." : "No socket in any of the states that were read."));
}

const ground = { height: 172, left: 46, right: 10, top: 24, bottom: 24 };

function plot(state) {
  const step = status.history.step_seconds;
  const end = Date.parse(status.history.end);
  const count = Math.max(2, ...Object.values(status.history.sockets).map((s) => s.length));
  const points = [...new Array(count - series(state).length).fill(null), ...series(state)];
  const timeOf = (i) => end - (count - 1 - i) * step * 1000;
  const width = plotWidth();
  const peak = Math.max(0, ...points.filter((n) => n !== null));
  const [top, tick] = scale(peak);
  const x = (i) => round(ground.left + (i / (count - 1)) * (width - ground.left - ground.right));
  const y = (n) => round(ground.height - ground.bottom - (n / top) * (ground.height - ground.bottom - ground.top));

  const now = status.sockets[state];
  const summary = points.every((n) => n === null) ? "never read" : `${now === undefined ? "not read now" : `${counted()} ${number(now)}`}, highest ${number(peak)}`;
  const reading = pointed === null ? summary : `${clock(timeOf(pointed))}: ${points[pointed] == null ? "not read" : number(points[pointed])}`;
  return html(
    "figure", { class: state, "data-state": state },
    html("figcaption", {}, html("span", { class: `swatch ${state}`, "aria-hidden": "true" }), html("strong", {}, state), " ", html("span", { class: "reading" }, reading)),
    svg(
      "svg", {
        viewBox: `0 0 ${width} ${ground.height}`, width, height: ground.height, role: "img", tabindex: 0, "data-count": count,
        "aria-label": `${state} over the last hour, in sockets: ${summary}. ${pointed === null ? "" : reading}`,
      },
      unread(points, step).map(([from, to]) => svg("rect", { class: "unread", x: x(from), y: ground.top, width: round(x(to) - x(from)), height: ground.height - ground.top - ground.bottom })),
      ticks(top, tick).map((n) => [
        svg("line", { class: "grid", x1: ground.left, x2: width - ground.right, y1: y(n), y2: y(n) }),
        svg("text", { x: ground.left - 6, y: y(n) + 4, "text-anchor": "end" }, short(n)),
      ]),
      svg("text", { x: 2, y: 10 }, "sockets"),
      rounded(timeOf(0), timeOf(count - 1)).map((ms) => {
        const at = x((ms - timeOf(0)) / step / 1000);
        return [
          svg("line", { class: "grid", x1: at, x2: at, y1: ground.top, y2: ground.height - ground.bottom }),
          svg("text", { x: at, y: ground.height - 7, "text-anchor": "middle" }, clock(ms)),
        ];
      }),
      runs(points, step).map((run) => [
        svg("path", { class: "area", d: `M${x(run[0])} ${y(0)}${run.map((i) => `L${x(i)} ${y(points[i])}`).join("")}L${x(run.at(-1))} ${y(0)}Z` }),
        // A lone point is a line without a length, which its round ends make a dot.
        svg("path", { class: "line", d: `M${run.map((i) => `${x(i)} ${y(points[i])}`).join("L")}${run.length === 1 ? "h0" : ""}` }),
      ]),
      pointed === null ? null : svg("line", { class: "pointer", x1: x(pointed), x2: x(pointed), y1: ground.top, y2: ground.height - ground.bottom }),
      pointed === null || points[pointed] == null ? null : svg("circle", { class: "dot", cx: x(pointed), cy: y(points[pointed]), r: 3.5 }),
    ),
  );
}

// plotWidth is what the columns of page.css leave for one plot, without its frame.
function plotWidth() {
  const box = at("plots").clientWidth;
  const columns = Math.max(1, Math.floor((box + 16) / (340 + 16)));
  return Math.max(200, Math.floor((box + 16) / columns) - 16 - 26);
}

const round = (n) => Math.round(n * 10) / 10;
const short = (n) => (n >= 10000 ? `${n / 1000}k` : String(n));

// scale is a round number to end an axis with, and how far its marks are apart.
function scale(peak) {
  const step = Math.max(1, peak / 3);
  const power = 10 ** Math.floor(Math.log10(step));
  const tick = power * [1, 2, 2.5, 5, 10].find((n) => n * power >= step && Number.isInteger(n * power));
  return [tick * Math.max(1, Math.ceil(peak / tick)), tick];
}

function ticks(top, tick) {
  return Array.from({ length: Math.round(top / tick) + 1 }, (_, i) => i * tick);
}

// rounded are round times between two instants, the quarters of an hour where it is
// one, not too near the ends.
function rounded(from, to) {
  const step = 60e3 * [1, 2, 5, 15].find((minutes) => to - from <= 5 * minutes * 60e3 || minutes === 15);
  const margin = (to - from) / 60;
  const list = [];
  for (let ms = Math.ceil(from / step) * step; ms <= to; ms += step) {
    if (ms - from > margin && to - ms > margin) list.push(ms);
  }
  return list;
}

// bridged is how many steps may be between two readings of one line: they may be
// rarer than the steps of the history, and that is no gap.
const bridged = (step) => Math.max(60, 2 * status.sockets_every_seconds) / step;

// runs are the indices of the readings that belong to one line.
function runs(points, step) {
  const list = [];
  let last = -Infinity;
  points.forEach((n, i) => {
    if (n === null) return;
    if (i - last > bridged(step)) list.push([]);
    list.at(-1).push(i);
    last = i;
  });
  return list;
}

// unread are the stretches in which nothing was read: from, to.
function unread(points, step) {
  const lines = runs(points, step);
  if (!lines.length) return [[0, points.length - 1]];
  const starts = [0, ...lines.map((run) => run.at(-1))];
  const ends = [...lines.map((run) => run[0]), points.length - 1];
  return starts.map((from, i) => [from, ends[i]]).filter(([from, to], i) => to - from > (i && i < lines.length ? 0 : bridged(step)));
}

// --- Actions ---

// mostActions is how many are shown: the journal has all.
const mostActions = 10;

function showActions() {
  if (!status.actions.length) {
    show(at("actions"), html("p", { class: "quiet" }, "Nothing was done yet."));
    return;
  }
  const good = new Set(["done", "gone", "resolved"]);
  const bad = new Set(["failed", "firing"]);
  const cell = (name, ...children) => html("td", { "data-name": name }, ...children);
  show(at("actions"), html(
    "table", {},
    html("thead", {}, html("tr", {}, ["Time", "Rule", "Action", "Connection", "Held by", "Reason"].map((name) => html("th", { scope: "col" }, name)))),
    html("tbody", {}, status.actions.slice(0, mostActions).map((a) => html(
      "tr", {},
      cell("Time", moment(a.time)),
      cell("Rule", a.rule),
      cell("Action", badge(bad.has(a.result) ? "bad" : good.has(a.result) ? "good" : "waiting", words(a.action, a.result))),
      cell("Connection", a.group ? foreign(about(a.group)) : [html("span", { class: "address" }, a.src), " → ", html("span", { class: "address" }, a.dst)]),
      cell("Held by", a.pid ? [foreign(a.comm), `[${a.pid}]`] : "–"),
      cell("Reason", foreign(a.reason)),
    ))),
  ));
}

// --- Life ---

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
    trouble = `no answer from the daemon${before ? `; what is here is of ${timeOfDay(before.time, Date.now())}` : ""}`;
    showAll();
    return;
  }
  try {
    if (answer.ok) {
      status = JSON.parse(text);
      // What a new daemon tells, the page that it serves is made for.
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
    trouble = "the answer is not of this page's version: reload it";
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
// A finger that is lifted leaves, and what it touched is to be read then.
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
at("verdict").textContent = "Asking…";
live();
