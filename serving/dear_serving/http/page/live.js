// Parts of a page that change while they are looked at: an element that stays is kept, with its focus.
import { h, svg } from "./dom.js";

/** Keeps `place` like a list of things. `make(thing)` returns `{element, update(thing)}`; returns
 *  `show(things, keyOf)`. */
export function keyed(place, make) {
  const kept = new Map();
  return (things, keyOf) => {
    const keys = new Set(things.map(keyOf));
    for (const [key, part] of kept) {
      if (keys.has(key)) continue;
      part.element.remove();
      kept.delete(key);
    }
    things.forEach((thing, index) => {
      const key = keyOf(thing);
      if (!kept.has(key)) kept.set(key, make(thing));
      const part = kept.get(key);
      part.update(thing);
      if (place.children[index] !== part.element) place.insertBefore(part.element, place.children[index] ?? null);
    });
  };
}

/** Set a text, where it is another one: a selection in it stays. */
export function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

const shown = new WeakMap();

/** Let `place` hold the elements that `make()` returns, made again where `facts` changed. */
export function redo(place, facts, make) {
  const now = JSON.stringify(facts);
  if (shown.get(place) === now) return;
  shown.set(place, now);
  place.replaceChildren(...[make()].flat().filter(Boolean));
}

/** A bar that is filled to a part of it; the number stands beside it. */
export function meter() {
  const fill = h("span", { class: "bar-fill" });
  const element = h("span", { class: "meter", "aria-hidden": "true" }, fill);
  return {
    element,
    update(part, kind = "") {
      fill.style.inlineSize = `${Math.round(Math.min(1, Math.max(0, part)) * 1000) / 10}%`;
      fill.className = `bar-fill ${kind}`;
    },
  };
}

/** A line of the last minutes, for the eye; the number stands beside it. */
export function sparkline(spanMs) {
  const area = svg("path", { class: "spark-area" });
  const line = svg("path", { class: "spark-line" });
  const element = svg("svg", { class: "spark", viewBox: "0 0 100 24", preserveAspectRatio: "none", "aria-hidden": "true" }, area, line);
  return {
    element,
    /** `points`: `{at, value}`, the newest last. */
    update(points) {
      const end = points.at(-1)?.at ?? 0;
      const span = Math.min(spanMs, Math.max(60_000, end - (points[0]?.at ?? 0))); // wider as more is known
      const most = Math.max(...points.map((one) => one.value), 1e-9);
      const at = points.map((one) => `${(100 - ((end - one.at) / span) * 100).toFixed(2)},${(23 - (one.value / most) * 21).toFixed(2)}`);
      const drawn = points.length > 1 ? `M${at.join("L")}` : "";
      line.setAttribute("d", drawn);
      area.setAttribute("d", drawn && `${drawn}L100,24L${at[0].split(",")[0]},24Z`);
    },
  };
}

const COMPACT = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

/** A number for people: 12.3K. */
export const short = (number) => COMPACT.format(number);

/** A rate: more digits the smaller it is. */
export const rate = (number) => (number >= 100 ? Math.round(number).toLocaleString("en") : number >= 9.95 || number === 0 ? number.toFixed(0) : number.toFixed(1));

export const percent = (part) => `${Math.round(part * 100)} %`;

/** "just now", "5 min ago". */
export function ago(at, now = Date.now()) {
  const seconds = Math.max(0, (now - at) / 1000);
  if (seconds < 10) return "just now";
  if (seconds < 60) return `${Math.round(seconds)} s ago`;
  if (seconds < 3600) return `${Math.round(seconds / 60)} min ago`;
  if (seconds < 86_400) return `${Math.round(seconds / 3600)} h ago`;
  return `${Math.round(seconds / 86_400)} d ago`;
}

/** A time of the server, ISO 8601, as it is long past or not; the whole of it on hovering. */
export function since() {
  const element = h("time", {});
  return {
    element,
    update(iso) {
      element.dateTime = iso;
      element.title = new Date(iso).toLocaleString();
      put(element, ago(Date.parse(iso)));
    },
  };
}
