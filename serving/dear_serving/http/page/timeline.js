// Where the time of a request went: its split, and its windows over time.
import { count, h, svg, time } from "./dom.js";

const WIDTH = 1000; // of the drawing's own units; it is as wide as its place
const HIGHEST = 14;
const MOST_ROWS = 50; // of the table

/** The times of a reply, `wallMs` as the page saw it: a bar of its parts, and what they are. */
export function timeSplit(reply, wallMs) {
  const { queue_ms: queue, engine_ms: engine, explanation } = reply.meta.dear;
  const total = Math.max(explanation.total_ms, queue + engine);
  const parts = [
    ["queue", queue, "waiting for its turn"],
    ["engine", engine, "in the engine"],
    ["gateway", Math.max(0, total - queue - engine), "in the gateway"],
    ["network", Math.max(0, wallMs - total), "on the way"],
  ];
  const all = parts.reduce((sum, [, ms]) => sum + ms, 0);
  return h(
    "div",
    { class: "split" },
    h("div", { class: "split-bar", "aria-hidden": "true" }, ...parts.map(([name, ms]) => h("span", { "data-part": name, style: { "flex-grow": Math.max(ms / all, 0.004) } }))),
    h(
      "dl",
      { class: "legend" },
      ...parts.map(([name, ms, title]) => h("div", { "data-part": name, title }, h("dt", {}, name), h("dd", { class: "number" }, time(ms)))),
      h("div", {}, h("dt", {}, "total"), h("dd", { class: "number" }, time(all))),
    ),
  );
}

/** The windows of a reply over time: what overlaps ran at once. `onWindow` gets a window's passages, or null. */
export function timeline(reply, onWindow) {
  const { windows, total_ms: total } = reply.meta.dear.explanation;
  if (!windows.length) return null;
  const sorted = [...windows].sort((a, b) => a.start_ms - b.start_ms);
  const lanes = inLanes(sorted);
  const depth = Math.max(...lanes) + 1;
  const height = Math.max(3, Math.min(HIGHEST, 140 / depth));
  const x = (ms) => (ms / total) * WIDTH;
  const rounds = [...new Set(sorted.map((one) => one.round))];
  const bands = rounds.map((round) => {
    const own = sorted.filter((one) => one.round === round);
    const [start, end] = [Math.min(...own.map((one) => one.start_ms)), Math.max(...own.map((one) => one.end_ms))];
    return svg("rect", { class: round % 2 ? "band odd" : "band", x: x(start), y: 0, width: Math.max(2, x(end) - x(start)), height: depth * height });
  });
  const bars = sorted.map((one, place) => {
    const y = lanes[place] * height;
    const box = { y: y + 0.5, height: Math.max(1.5, height - 1), rx: 2 };
    return svg(
      "g",
      { class: "window", onpointerenter: () => onWindow?.(one.documents), onpointerleave: () => onWindow?.(null) },
      svg("title", {}, `Round ${one.round + 1}: ${count(one.documents.length, "passage")}, ${time(one.start_ms)} to ${time(one.end_ms)}, of which ${time(one.queue_ms)} waiting`),
      svg("rect", { class: "waits", x: x(one.start_ms), width: Math.max(1.5, x(one.end_ms) - x(one.start_ms)), ...box }),
      svg("rect", { class: "runs", x: x(Math.min(one.end_ms, one.start_ms + one.queue_ms)), width: Math.max(1.5, x(one.end_ms) - x(Math.min(one.end_ms, one.start_ms + one.queue_ms))), ...box }),
    );
  });
  const sentence = `${count(windows.length, "window")} in ${count(rounds.length, "round")}, at most ${depth} at once, over ${time(total)}`;
  return h(
    "figure",
    { class: "timeline" },
    h("figcaption", { class: "faint" }, sentence),
    svg("svg", { role: "img", "aria-label": sentence, viewBox: `0 0 ${WIDTH} ${depth * height}`, preserveAspectRatio: "none", style: { "block-size": `${depth * height}px` } }, ...bands, ...bars),
    h("div", { class: "axis faint number", "aria-hidden": "true" }, h("span", {}, "0"), h("span", {}, time(total / 2)), h("span", {}, time(total))),
    h("details", {}, h("summary", {}, "As a table"), table(sorted)),
  );
}

/** A lane for each window: windows of one lane do not overlap. */
export function inLanes(sorted) {
  const ends = [];
  return sorted.map((one) => {
    let lane = ends.findIndex((end) => end <= one.start_ms);
    if (lane < 0) lane = ends.length;
    ends[lane] = one.end_ms;
    return lane;
  });
}

function table(windows) {
  const rows = windows.slice(0, MOST_ROWS).map((one) =>
    h("tr", {}, ...[one.round + 1, time(one.start_ms), time(one.end_ms), time(one.queue_ms), one.documents.length].map((text) => h("td", { class: "number" }, text))),
  );
  const left = windows.length - rows.length;
  return h(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": "Windows" },
    h("table", {}, h("thead", {}, h("tr", {}, ...["Round", "Start", "End", "Waited", "Passages"].map((text) => h("th", { scope: "col" }, text)))), h("tbody", {}, ...rows)),
    left > 0 && h("p", { class: "faint" }, `and ${left} more`),
  );
}
