// The results: a list for each model, lines between them, how far they agree, and how each came about.
import { kendall } from "./agreement.js";
import { announce, copyButton, count, h, svg, time } from "./dom.js";
import { textOf } from "./passages.js";
import { snippets } from "./snippets.js";
import { timeline, timeSplit } from "./timeline.js";

const MOST_LINES = 50;
const MOST_PASTED = 20; // passages in the request to copy

/** Lay out the columns of one run in `place`. */
export class Results {
  #columns;
  #gaps = [];

  constructor(place, columns) {
    this.#columns = columns;
    this.agreement = h("div");
    this.details = h("div", { class: "columns details", "data-count": columns.length });
    this.grid = h("div", { class: "columns", "data-count": columns.length });
    columns.forEach((column, at) => {
      if (at) {
        const lines = svg("svg", { class: "lines", "aria-hidden": "true" });
        this.#gaps.push(lines);
        this.grid.append(lines);
        this.details.append(h("div"));
      }
      this.grid.append(column.element);
      this.details.append(h("div", { class: "stack" }));
      column.onShow = () => this.#draw();
    });
    this.more = h("div", { class: "stack" });
    place.replaceChildren(this.agreement, this.grid, this.details, this.more);
    new ResizeObserver(() => this.#draw()).observe(this.grid);
    this.grid.addEventListener("pointerover", (event) => this.#point(event.target.closest?.(".item")?.dataset.index));
    this.grid.addEventListener("pointerleave", () => this.#point(undefined));
  }

  /** Say how a column's list came about, once its reply is there. */
  explain(column, wallMs) {
    const { meta, usage } = column.reply;
    const dear = meta.dear;
    const at = this.#columns.indexOf(column);
    const facts = [
      ["revision", dear.revision],
      ["strategy", dear.strategy, dear.strategy_reason],
      ["windows", `${dear.windows} in ${count(dear.rounds, "round")}`],
      ["tokens", `${usage.prompt_tokens.toLocaleString("en")} read, ${usage.completion_tokens.toLocaleString("en")} chosen`],
      dear.passes && ["forward passes", dear.passes],
      column.mended && ["repaired", Object.entries(dear.repairs).filter(([, times]) => times).map(([kind, times]) => `${times} ${kind.replaceAll("_", " ")}`).join(", ")],
      column.firstRankMs !== null && ["first rank after", time(column.firstRankMs)],
    ].filter(Boolean);
    const highlight = (passages) => {
      for (const item of column.element.querySelectorAll(".item")) {
        item.classList.toggle("lit", passages?.includes(Number(item.dataset.index)) ?? false);
      }
    };
    this.details.children[2 * at].replaceChildren(
      h(
        "section",
        { class: "card stack", "data-place": at, "aria-label": `How ${column.model} ranked` },
        h("h3", {}, this.#columns.length > 1 ? `How ${column.model} ranked` : "How it was ranked"),
        meta.warnings.length > 0 && h("ul", { class: "warnings" }, ...meta.warnings.map((one) => h("li", { class: "tag warn" }, one))),
        timeSplit(column.reply, wallMs),
        timeline(column.reply, highlight),
        h("dl", { class: "facts" }, ...facts.map(([name, value, title]) => h("div", { title }, h("dt", {}, name), h("dd", { class: "number" }, String(value))))),
        dear.reasoning?.length > 0 &&
          h("details", { class: "reasoning" }, h("summary", {}, `Reasoning, ${count(dear.reasoning.length, "text")}`), ...dear.reasoning.map((one) => h("p", { dir: "auto", class: "passage" }, one || "(nothing)"))),
      ),
    );
  }

  /** All columns have ended: how far they agree. */
  compare() {
    const [first, ...others] = this.#columns;
    const ranked = this.#columns.filter((one) => one.order.length);
    if (others.length && ranked.length > 1) {
      const pairs = ranked.flatMap((a, at) => ranked.slice(at + 1).map((b) => [a, b]));
      this.agreement.replaceChildren(h("section", { class: "card agreement", "aria-label": "Agreement" }, ...pairs.map(agreementOf)));
      const places = new Map(first.order.map((index, rank) => [index, rank]));
      for (const column of others) {
        column.order.forEach((index, rank) => {
          const there = places.get(index);
          if (there === undefined) column.mark(index, `not in ${first.letter}`, `Not among the first ${first.order.length} of ${first.model}`, "");
          else if (there !== rank) column.mark(index, `${first.letter} ${there + 1} ${there > rank ? "↑" : "↓"}`, `Rank ${there + 1} by ${first.model}`, "");
        });
      }
    }
    this.#draw();
  }

  /** The request, to paste elsewhere. */
  offer(body, hasKey) {
    const { documents } = body;
    const texts = snippets({ ...body, documents: documents.slice(0, MOST_PASTED) }, location.origin, hasKey);
    const shown = h("pre", { tabindex: "0", "aria-label": "The request" });
    const buttons = Object.keys(texts).map((name) => h("button", { type: "button", class: "small", onclick: () => choose(name) }, name));
    const choose = (name) => {
      shown.textContent = texts[name];
      for (const button of buttons) button.setAttribute("aria-pressed", String(button.textContent === name));
    };
    choose("curl");
    this.more.replaceChildren(
      h(
        "section",
        { class: "card stack", "aria-label": "The request elsewhere" },
        h("div", { class: "row apart" }, h("h3", {}, "This request from elsewhere"), h("div", { class: "row" }, h("div", { class: "row", role: "group", "aria-label": "Language" }, ...buttons), copyButton("Copy", () => shown.textContent))),
        documents.length > MOST_PASTED && h("p", { class: "faint" }, `The first ${MOST_PASTED} of ${documents.length.toLocaleString("en")} passages stand for all.`),
        shown,
      ),
    );
  }

  #draw() {
    this.#gaps.forEach((lines, at) => {
      const [left, right] = [this.#columns[at], this.#columns[at + 1]];
      lines.replaceChildren();
      const width = lines.clientWidth;
      if (!width || !left.order.length || !right.order.length) return;
      const top = lines.getBoundingClientRect().top;
      const ranks = new Map(right.order.map((index, rank) => [index, rank]));
      left.order.slice(0, MOST_LINES).forEach((index, rank) => {
        const [from, to] = [left.item(index), right.item(index)];
        if (!from?.isConnected || !to?.isConnected || !ranks.has(index)) return;
        const [a, b] = [middle(from, top), middle(to, top)];
        const moved = Math.sign(rank - ranks.get(index));
        lines.append(svg("path", { "data-index": index, "data-moved": moved, d: `M0 ${a} C${width / 2} ${a} ${width / 2} ${b} ${width} ${b}` }));
      });
    });
  }

  #point(index) {
    for (const one of this.grid.querySelectorAll("[data-index]")) one.classList.toggle("lit", index !== undefined && one.dataset.index === index);
  }
}

/** Where the middle of an item will be, whatever still moves it. */
function middle(item, top) {
  const moving = item.getAnimations().length ? new DOMMatrix(getComputedStyle(item).transform).f : 0;
  const box = item.getBoundingClientRect();
  return box.top - moving + box.height / 2 - top;
}

function agreementOf([a, b]) {
  const { tau, same, pairs, count: both } = kendall(a.order, b.order);
  const first = a.order[0] === b.order[0] ? "The same passage is first." : "Another passage is first.";
  return h(
    "div",
    { class: "row" },
    h("span", {}, h("span", { class: "letter", "data-place": "ABC".indexOf(a.letter) }, a.letter), " ", h("span", { class: "letter", "data-place": "ABC".indexOf(b.letter) }, b.letter)),
    tau === null
      ? h("span", {}, "They share too few passages to compare.")
      : h(
          "span",
          {},
          h("strong", { class: "number" }, `Kendall’s τ ${tau.toFixed(2).replace("-", "−")}`),
          `: ${same.toLocaleString("en")} of ${pairs.toLocaleString("en")} pairs of ${both === a.order.length && both === b.order.length ? "passages" : `the ${both} shared passages`} in the same order. ${first}`,
        ),
  );
}

/** Tell listeners the ranks that came, but for those of long lists. */
export function announceRanks(column, documents) {
  const heads = column.order.slice(0, 3).map((index, rank) => `${rank + 1}: [${index}] ${textOf(documents[index]).slice(0, 80)}`);
  if (column.reply) announce(`${column.name} ranked ${count(column.order.length, "passage")}. ${heads.join(". ")}`);
  else if (heads.length) announce(`${column.name}. ${heads.at(-1)}`);
}
