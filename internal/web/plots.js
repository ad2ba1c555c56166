// The plots of sockets by state. They are drawn by what page.js keeps.
"use strict";

// counted is when the sockets were counted: where that is expensive, it is done seldom.
const counted = () => (Date.parse(status.time) - Date.parse(status.sockets_at) > nowFor * 1000 ? `${since(status.sockets_at)} ago` : "now");

// shown tells whether a state is plotted: unless it was pressed, if it had sockets and
// they can be stuck in it.
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
    : html("p", { class: "quiet" }, which.length ? "No sockets were counted yet." : "No sockets in any state that was counted."));
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

// plotWidth is the width that the columns of page.css leave for a plot, without its frame.
function plotWidth() {
  const box = at("plots").clientWidth;
  const columns = Math.max(1, Math.floor((box + 16) / (340 + 16)));
  return Math.max(200, Math.floor((box + 16) / columns) - 16 - 26);
}

const round = (n) => Math.round(n * 10) / 10;
const short = (n) => (n >= 10000 ? `${n / 1000}k` : String(n));

// scale is a round number at which an axis ends, and the distance of its marks.
function scale(peak) {
  const step = Math.max(1, peak / 3);
  const power = 10 ** Math.floor(Math.log10(step));
  const tick = power * [1, 2, 2.5, 5, 10].find((n) => n * power >= step && Number.isInteger(n * power));
  return [tick * Math.max(1, Math.ceil(peak / tick)), tick];
}

function ticks(top, tick) {
  return Array.from({ length: Math.round(top / tick) + 1 }, (_, i) => i * tick);
}

// rounded are round times between two instants, quarters for a whole hour, not too
// near the ends.
function rounded(from, to) {
  const step = 60e3 * [1, 2, 5, 15].find((minutes) => to - from <= 5 * minutes * 60e3 || minutes === 15);
  const margin = (to - from) / 60;
  const list = [];
  for (let ms = Math.ceil(from / step) * step; ms <= to; ms += step) {
    if (ms - from > margin && to - ms > margin) list.push(ms);
  }
  return list;
}

// bridged is how many steps two points of one line may be apart: sockets may be counted
// more seldom than the history has steps, and that is no gap.
const bridged = (step) => Math.max(60, 2 * status.sockets_every_seconds) / step;

// runs are the indices of the points of each line.
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

// unread are the stretches without points: from, to.
function unread(points, step) {
  const lines = runs(points, step);
  if (!lines.length) return [[0, points.length - 1]];
  const starts = [0, ...lines.map((run) => run.at(-1))];
  const ends = [...lines.map((run) => run[0]), points.length - 1];
  return starts.map((from, i) => [from, ends[i]]).filter(([from, to], i) => to - from > (i && i < lines.length ? 0 : bridged(step)));
}
