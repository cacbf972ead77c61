// Judging: two orders without their models' names, the reader's own order, and files of what was judged.
import { announce, count, download, h, isCalm } from "./dom.js";
import { candidatesText, forgetAll, judgements, keep, qrelsText, tally, trainingText } from "./judgements.js";

/** Ask which of two orders is better, in `place`. `columns` hold the orders; `onSaved` is called once one is kept. */
export function askWhich(place, columns, list, onSaved) {
  const [first, second] = columns;
  const areSame = first.order.every((index, rank) => second.order[rank] === index);
  const question = h("h2", { tabindex: "-1" }, areSame ? "Both orders are the same" : "Which order is better?");
  const rest = h("div", { class: "stack" });
  const choices = [
    ["Order 1", first],
    ["Order 2", second],
    ["Both alike", null],
  ].slice(areSame ? 2 : 0);
  const buttons = choices.map(([label, column]) =>
    h("button", { type: "button", onclick: (event) => choose(event.currentTarget, column) }, label),
  );
  const choose = (pressed, column) => {
    for (const button of buttons) button.setAttribute("aria-pressed", String(button === pressed));
    const editor = new Editor(list.documents, (column ?? first).order);
    const save = () => {
      const [one, two] = [...columns].map((each) => each.model);
      try {
        keep({ ...list, order: editor.order, relevant: editor.relevant, models: [one, two].sort(), better: column?.model ?? null });
      } catch {
        rest.append(h("p", { class: "trouble", role: "alert" }, "This tab can keep no more: download what is there, then delete it."));
        return;
      }
      place.replaceChildren(h("p", { class: "note", role: "status" }, `Saved. Order 1 was ${one}, order 2 was ${two}.`));
      onSaved();
    };
    rest.replaceChildren(
      h("h3", {}, "Your order"),
      h("p", { class: "faint" }, "Drag passages, or move them with their buttons or the arrow keys. What stands below the line is not relevant."),
      editor.element,
      h("div", { class: "row" }, h("button", { type: "button", class: "main", onclick: save }, "Save this judgement")),
    );
    rest.querySelector("button").focus({ preventScroll: true });
    rest.scrollIntoView({ block: "nearest" });
  };
  place.replaceChildren(h("section", { class: "card stack", "aria-label": "Judgement" }, question, h("div", { class: "row" }, ...buttons), rest));
  question.focus({ preventScroll: true });
  if (areSame) choose(buttons[0], null);
}

/** What was judged so far, with its files. */
export function showJudged(place) {
  const all = judgements();
  const file = (label, name, text) => h("button", { type: "button", onclick: () => download(name, text(all)) }, label);
  place.replaceChildren(
    h(
      "section",
      { class: "card stack", "aria-label": "Judgements" },
      h("h2", {}, all.length ? count(all.length, "judgement") : "No judgements yet"),
      all.length > 0 && h("p", {}, ...tally(all).map(([name, times]) => h("span", { class: "tag" }, `${name}: ${times}`)).flatMap((one) => [one, " "])),
      all.length > 0 &&
        h(
          "div",
          { class: "row" },
          file("Training lists (JSONL)", "judged.jsonl", trainingText),
          file("Qrels (TREC)", "judged.qrels.txt", qrelsText),
          file("Candidates (JSON)", "judged.candidates.json", candidatesText),
          h("button", { type: "button", class: "quiet", onclick: () => { forgetAll(); showJudged(place); } }, "Delete all"),
        ),
      h("p", { class: "faint" }, "They are in this tab until you close it. ", h("code", {}, "dear training-data judged.jsonl"), " makes training examples of the lists; ", h("code", {}, "dear eval --candidates judged.candidates.json --qrels judged.qrels.txt"), " measures a model by them."),
    ),
  );
}

const LINE = -1;

/** An order that a reader can change, with a line below which nothing is relevant. */
class Editor {
  #documents;

  constructor(documents, order) {
    this.#documents = documents;
    this.element = h("ol", { class: "ranks editor", "aria-label": "Your order, best first" });
    this.element.append(...[...order, LINE].map((index) => this.#item(index)));
    this.#number();
  }

  /** Passages, best first. */
  get order() {
    return this.#indices().filter((index) => index !== LINE);
  }

  /** How many of them stand above the line. */
  get relevant() {
    return this.#indices().indexOf(LINE);
  }

  #indices() {
    return [...this.element.children].map((item) => Number(item.dataset.index));
  }

  #item(index) {
    const name = index === LINE ? "the line" : `passage ${index}`;
    const move = (by) => h("button", { type: "button", class: "small", "aria-label": `Move ${name} ${by < 0 ? "up" : "down"}`, onclick: () => this.#move(item, by) }, by < 0 ? "↑" : "↓");
    const grip = h("span", { class: "grip", "aria-hidden": "true", onpointerdown: (event) => this.#drag(event, item) }, "⠿");
    const item = h(
      "li",
      { class: index === LINE ? "item line" : "item", "data-index": index },
      grip,
      h("span", { class: "rank number" }),
      index === LINE ? h("span", { class: "said" }, "Not relevant from here on") : h("div", { class: "said" }, h("p", { dir: "auto", class: "passage" }, this.#documents[index]), h("span", { class: "index mono" }, `[${index}]`)),
      h("span", { class: "row moves" }, move(-1), move(1)),
    );
    item.addEventListener("keydown", (event) => {
      const by = { ArrowUp: -1, ArrowDown: 1 }[event.key];
      if (!by) return;
      event.preventDefault();
      this.#move(item, by);
    });
    return item;
  }

  #move(item, by) {
    const other = by < 0 ? item.previousElementSibling : item.nextElementSibling;
    if (!other) return;
    const focused = document.activeElement;
    this.#gliding(() => (by < 0 ? other.before(item) : other.after(item)));
    focused.focus(); // an element that moves in the document loses it
    item.scrollIntoView({ block: "nearest" });
    const name = Number(item.dataset.index) === LINE ? "The line" : `Passage ${item.dataset.index}`;
    announce(`${name} is now ${[...this.element.children].indexOf(item) + 1} of ${this.element.children.length}`);
  }

  #drag(event, item) {
    if (event.button !== 0) return;
    event.preventDefault();
    item.classList.add("dragged");
    const follow = ({ clientY }) => {
      const others = [...this.element.children].filter((one) => one !== item);
      const below = others.find((one) => {
        const box = one.getBoundingClientRect();
        return clientY < box.top + box.height / 2;
      });
      if (below === (item.nextElementSibling ?? undefined)) return;
      this.#gliding(() => (below ? below.before(item) : this.element.append(item)), item);
    };
    // Of the window: an element that moves in the document loses the pointer that it captured.
    const over = new AbortController();
    const end = () => {
      over.abort();
      item.classList.remove("dragged");
    };
    addEventListener("pointermove", follow, { signal: over.signal });
    for (const name of ["pointerup", "pointercancel"]) addEventListener(name, end, { signal: over.signal });
  }

  #gliding(change, except = null) {
    const items = isCalm() ? [] : [...this.element.children];
    for (const item of items) for (const one of item.getAnimations()) one.cancel();
    const before = items.map((item) => item.offsetTop);
    change();
    this.#number();
    items.forEach((item, place) => {
      const by = before[place] - item.offsetTop;
      if (by && item !== except) item.animate([{ transform: `translateY(${by}px)` }, { transform: "none" }], { duration: 180, easing: "ease-out" });
    });
  }

  #number() {
    let rank = 0;
    let isBelow = false;
    for (const item of this.element.children) {
      if (Number(item.dataset.index) === LINE) isBelow = true;
      else {
        rank += 1;
        item.querySelector(".rank").textContent = rank;
        item.classList.toggle("below", isBelow);
      }
    }
  }
}
