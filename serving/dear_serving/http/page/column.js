// One model's list: passages wait in the order they came in, and move to their rank when it is decided.
import { count, h, isCalm } from "./dom.js";
import { textOf } from "./passages.js";
import { showTrouble } from "./trouble.js";

const SHOWN = 25; // at first: how a list came about stands below it
const MORE = 100; // at a time; a list of thousands would make the page slow
const MOVED = 200; // passages on the page, above which nothing is animated
const LONG = 320; // characters, from which a passage is shown in part

export class Column {
  order = []; // decided passages, best first
  reply = null; // the whole reply, once it is there
  error = null;
  firstRankMs = null;

  #documents;
  #scores = new Map();
  #items = new Map();
  #shown = SHOWN;
  #marks = new Map(); // passage -> words beside it
  #isBlind;

  /** `name` is shown as the title; where `isBlind`, no score is shown either. */
  constructor({ model, name, letter, place, documents, isBlind = false }) {
    this.model = model;
    this.name = name;
    this.letter = letter;
    this.#documents = documents;
    this.#isBlind = isBlind;
    const id = `column-${place}`;
    this.state = h("span", { class: "faint" });
    this.trouble = h("div");
    this.ranked = h("ol", { class: "ranks", "aria-label": `${name}, best first` });
    this.waiting = h("ul", { class: "ranks waiting", "aria-label": "Not ranked yet" });
    this.more = h("button", { type: "button", class: "small", hidden: true, onclick: () => this.#showMore() });
    this.element = h(
      "section",
      { class: "column", "data-place": place, "aria-labelledby": id, "aria-busy": "true" },
      h("header", { class: "row" }, letter && h("span", { class: "letter", "aria-hidden": "true" }, letter), h("h2", { id, class: "name" }, name), this.state),
      this.trouble,
      this.ranked,
      this.more,
      this.waiting,
    );
    for (let index = 0; index < Math.min(documents.length, SHOWN); index += 1) this.waiting.append(this.#item(index));
    this.#showState();
  }

  /** Take in ranks as the server told them: `{rank, index, relevance_score}` each, in order. */
  decide(ranks) {
    if (!ranks.length) return;
    this.#moving(() => {
      for (const { index, relevance_score: score } of ranks) {
        this.#scores.set(index, score);
        this.order.push(index);
        const rank = this.order.length;
        if (rank > this.#shown) this.#items.get(index)?.remove();
        else this.ranked.append(this.#decided(index, rank));
      }
    });
    this.#showState();
  }

  /** The reply is whole. */
  finish(reply) {
    this.reply = reply;
    const { explanation, repairs } = reply.meta.dear;
    for (const index of explanation?.cut_documents ?? []) this.mark(index, "cut", "Only its beginning was read");
    this.mended = Object.values(repairs).reduce((sum, one) => sum + one, 0);
    this.#end();
  }

  /** The stream failed or broke: what was decided stays. */
  fail(error, actions) {
    this.error = error;
    const kept = this.order.length ? `${count(this.order.length, "rank")} decided before that ${this.order.length === 1 ? "is" : "are"} kept.` : "";
    showTrouble(this.trouble, error, { ...actions, kept });
    this.#end();
  }

  /** The reader stopped it. */
  stop() {
    this.trouble.replaceChildren(h("p", { class: "note" }, "Stopped."));
    this.#end();
  }

  /** Put a word beside a passage; `title` explains it. */
  mark(index, word, title, kind = "warn") {
    this.#marks.set(index, [...(this.#marks.get(index) ?? []), { word, title, kind }]);
    const item = this.#items.get(index);
    if (item) this.#showMarks(index, item);
  }

  /** The item of a passage, where it is on the page. */
  item(index) {
    return this.#items.get(index);
  }

  #end() {
    this.element.setAttribute("aria-busy", "false");
    const left = this.#documents.length - this.order.length;
    const isWhole = this.reply !== null;
    if (isWhole && left) {
      this.waiting.replaceWith(h("p", { class: "faint" }, `${count(left, "passage")} below the first ${this.order.length} ${left === 1 ? "was" : "were"} not asked for.`));
    } else if (!left) this.waiting.remove();
    else if (!isWhole && this.order.length) this.waiting.before(h("h3", { class: "faint" }, `Not ranked: ${left}`));
    this.#showState();
  }

  #showState() {
    const total = this.#documents.length;
    const hidden = this.order.length - this.#shown;
    this.more.hidden = hidden <= 0;
    this.more.textContent = hidden > 0 ? `Show ${Math.min(hidden, MORE)} more of ${hidden.toLocaleString("en")}` : "";
    if (this.reply) this.state.textContent = "";
    else if (this.error) this.state.textContent = `${this.order.length} of ${total}`;
    else this.state.textContent = this.order.length ? `${this.order.length} of ${total} …` : "ranking …";
  }

  #showMore() {
    const first = this.#shown;
    this.#shown += MORE;
    const added = this.order.slice(first, this.#shown).map((index, place) => this.#decided(index, first + place + 1));
    this.ranked.append(...added);
    this.#showState();
    added[0].tabIndex = -1;
    added[0].focus();
    this.onShow?.();
  }

  #item(index) {
    const text = textOf(this.#documents[index]);
    const body = h("p", { dir: "auto", class: "passage" }, text);
    const item = h(
      "li",
      { class: "item", "data-index": index },
      h("span", { class: "rank number" }),
      h("div", { class: "said" }, body, h("div", { class: "marks" })),
    );
    if (text.length > LONG || text.split("\n").length > 4) {
      body.classList.add("clamped");
      const toggle = h("button", { type: "button", class: "small quiet", "aria-expanded": "false" }, "Show all");
      toggle.addEventListener("click", () => {
        const isOpen = !body.classList.toggle("clamped");
        toggle.textContent = isOpen ? "Show less" : "Show all";
        toggle.setAttribute("aria-expanded", String(isOpen));
        this.onShow?.();
      });
      item.querySelector(".said").append(toggle);
    }
    this.#items.set(index, item);
    this.#showMarks(index, item);
    return item;
  }

  #decided(index, rank) {
    const item = this.#items.get(index) ?? this.#item(index);
    item.querySelector(".rank").textContent = rank;
    if (!this.#isBlind && !item.querySelector(".score")) {
      const score = this.#scores.get(index);
      item.append(
        h(
          "div",
          { class: "score", title: "Compare scores within one list only" },
          h("span", { class: "meter", "aria-hidden": "true" }, h("i", { style: { "inline-size": `${Math.max(0, Math.min(1, score)) * 100}%` } })),
          h("span", { class: "number" }, h("span", { class: "unseen" }, "score "), score.toFixed(2)),
        ),
      );
    }
    return item;
  }

  #showMarks(index, item) {
    item.querySelector(".marks").replaceChildren(
      h("span", { class: "index mono" }, `[${index}]`),
      ...(this.#marks.get(index) ?? []).map(({ word, title, kind }) => h("span", { class: `tag ${kind}`, title }, word)),
    );
  }

  /** Change the lists, and let what is on the page glide to where it then is. */
  #moving(change) {
    const items = [...this.element.querySelectorAll(".item")];
    if (isCalm() || items.length > MOVED) {
      change();
      return;
    }
    const before = items.map((item) => item.getBoundingClientRect());
    for (const item of items) for (const one of item.getAnimations()) one.cancel();
    change();
    const after = items.map((item) => item.getBoundingClientRect());
    items.forEach((item, place) => {
      const [x, y] = [before[place].left - after[place].left, before[place].top - after[place].top];
      if (x || y) item.animate([{ transform: `translate(${x}px, ${y}px)` }, { transform: "none" }], { duration: 320, easing: "cubic-bezier(.2, .7, .2, 1)" });
    });
  }
}
