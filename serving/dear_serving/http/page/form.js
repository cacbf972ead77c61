// The form: what is to be ranked, by which models and how.
import { count, facts, h, the } from "./dom.js";
import { examples } from "./examples.js";
import { readPassages } from "./passages.js";

const MOST_MODELS = 3;
const MOST_PASTED = 20_000; // characters; a browser pastes longer texts line by line, for minutes
const MOST_TYPED = 1_000_000; // characters; more would make the text field slow, and is kept beside it

/** The form of the page. `onGo` is called with nothing when the reader asks for a ranking. */
export class Form {
  #held = null; // {name, text} of a file that is too large for the field
  #models = []; // of the server
  #wanted = [null]; // models to choose once they are known; null: the base model
  #read = { documents: [], query: null, form: "", note: "" };
  #wrong = null;

  constructor({ onGo, onShare, onMode, onExample }) {
    this.onMode = onMode;
    the("form").addEventListener("submit", (event) => {
      event.preventDefault();
      onGo();
    });
    document.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || document.querySelector("dialog[open]")) return;
      event.preventDefault();
      onGo();
    });
    the("share").addEventListener("click", onShare);
    the("passages").addEventListener("input", () => this.#readPassages());
    the("passages").addEventListener("paste", (event) => this.#paste(event));
    the("query").addEventListener("input", () => this.#mark("query", ""));
    the("file").addEventListener("change", () => {
      if (the("file").files.length) this.#open(the("file").files[0]);
      the("file").value = "";
    });
    this.#takeDrops(the("form"));
    the("model-add").addEventListener("click", () => {
      const used = this.#selects().map((one) => one.value);
      this.#addModel(this.#models.map((one) => one.id).find((id) => !used.includes(id)));
      this.#selects().at(-1).focus();
    });
    for (const mode of ["rank", "judge"]) the(`mode-${mode}`).addEventListener("click", () => this.setMode(mode, true));
    the("strategy").append(...facts.strategies.map((name) => h("option", { value: name === "auto" ? "" : name }, name)));
    the("examples").append(
      h("span", { class: "faint" }, "Try:"),
      ...examples.map((one) =>
        h("button", { type: "button", class: "small", onclick: () => { this.setExample(one); onExample(); } }, one.name),
      ),
    );
  }

  /** The models of the server, as /v1/models lists them. Those that are chosen stay, where they still exist. */
  setModels(models) {
    const chosen = this.#selects().map((one) => one.value).filter(Boolean);
    this.#models = models;
    this.#chooseModels(chosen.length ? chosen : this.#wanted);
  }

  setExample(example) {
    this.#fill({ ...example, passages: example.passages.join("\n") });
  }

  /** Everything a link holds. */
  get state() {
    return {
      query: the("query").value,
      passages: this.#held?.text ?? the("passages").value,
      instruction: the("instruction").value,
      models: this.#selects().map((one) => one.value),
      strategy: the("strategy").value,
      topN: whole("top-n"),
      deadline: whole("deadline"),
      reasoning: the("reasoning").checked,
      mode: this.mode,
    };
  }

  set state(state) {
    this.#fill(state);
    the("instruction").value = state.instruction;
    the("strategy").value = state.strategy;
    if (the("strategy").selectedIndex < 0) the("strategy").value = "";
    the("top-n").value = state.topN ?? "";
    the("deadline").value = state.deadline ?? "";
    the("reasoning").checked = state.reasoning;
    the("options").open = Boolean(state.instruction || state.strategy || state.topN || state.deadline || state.reasoning);
    this.setMode(state.mode);
  }

  get mode() {
    return the("mode-judge").getAttribute("aria-pressed") === "true" ? "judge" : "rank";
  }

  setMode(mode, isAsked = false) {
    for (const one of ["rank", "judge"]) the(`mode-${one}`).setAttribute("aria-pressed", String(one === mode));
    const judges = mode === "judge";
    the("title").textContent = judges ? "Judge two orders" : "Rank a list";
    the("mode-help").textContent = judges
      ? "Two models rank the list. Say which order is better without knowing whose it is, and make your own."
      : "The model reads all passages and puts the best first.";
    this.#fitModels();
    this.setBusy(false);
    this.onMode(mode, isAsked);
  }

  setBusy(isBusy) {
    the("go").textContent = isBusy ? "Stop" : this.mode === "judge" ? "Compare blind" : "Rank";
    the("go").dataset.busy = String(isBusy);
  }

  /** What to send, for each model; null where something is missing, which the form then says. */
  get request() {
    const { query, instruction, strategy, topN, deadline, reasoning, models } = this.state;
    this.#readPassages();
    const documents = this.#read.documents;
    const wrong = [
      ["query", !query.trim() && "What are the passages ranked for?"],
      ["passages", this.#wrong ?? (!documents.length && "There is nothing to rank yet.")],
      ["passages", documents.length > facts.max_documents && `${count(documents.length, "passage")}: the server takes ${facts.max_documents.toLocaleString("en")}.`],
      ["top-n", topN === undefined && "A whole number, from 1."],
      ["deadline", deadline === undefined && "A whole number of milliseconds, from 1."],
    ].find(([, sentence]) => sentence);
    if (wrong) {
      this.#mark(...wrong);
      if (!the(wrong[0]).checkVisibility()) the("options").open = true;
      the(wrong[0]).focus();
      return null;
    }
    const dear = {};
    if (strategy) dear.strategy = strategy;
    if (deadline) dear.deadline_ms = deadline;
    if (reasoning) dear.reasoning = true;
    if (instruction.trim()) dear.instruction = instruction.trim();
    const shared = { query: query.trim(), documents };
    if (topN) shared.top_n = topN;
    if (Object.keys(dear).length) shared.dear = dear;
    const bodies = [...new Set(models)].map((model) => (model ? { model, ...shared } : shared));
    const bytes = new Blob([JSON.stringify(bodies[0])]).size;
    if (bytes > facts.max_body_bytes) {
      this.#mark("passages", `${megabytes(bytes)}: the server takes ${megabytes(facts.max_body_bytes)}.`);
      the("passages").focus();
      return null;
    }
    return bodies;
  }

  /** Say in the form that the server refused a field of the request. Returns whether it has one. */
  markRefused(param, sentence) {
    const field = { query: "query", documents: "passages", top_n: "top-n", instruction: "instruction", "dear.instruction": "instruction", "dear.deadline_ms": "deadline" }[param?.replace(/\.\d+.*$/, "")];
    if (field) this.#mark(field, sentence);
    return Boolean(field);
  }

  #fill({ query, passages, models }) {
    the("query").value = query;
    this.#mark("query", "");
    this.#setText(passages);
    this.#chooseModels(models);
  }

  #setText(text, name = "The list") {
    this.#held = text.length > MOST_TYPED ? { name, text } : null;
    the("passages").value = this.#held ? "" : text;
    the("passages").hidden = this.#held !== null;
    the("held").hidden = this.#held === null;
    if (this.#held) {
      the("held").replaceChildren(
        h("span", {}, `${name}, ${megabytes(text.length)}`),
        h("button", { type: "button", class: "small", onclick: () => { this.#setText(""); the("passages").focus(); } }, "Remove"),
      );
    }
    this.#readPassages();
  }

  #readPassages() {
    this.#wrong = null;
    try {
      this.#read = readPassages(this.#held?.text ?? the("passages").value);
    } catch (error) {
      this.#read = { documents: [], query: null, form: "", note: "" };
      this.#wrong = error.message;
    }
    const { documents, form, note } = this.#read;
    this.#mark("passages", this.#wrong ?? "");
    the("passages-help").textContent = documents.length
      ? [`${count(documents.length, "passage")}, ${form}.`, note].filter(Boolean).join(" ")
      : "One a line, JSON or JSONL; or drop a file here.";
  }

  #paste(event) {
    const text = event.clipboardData.getData("text/plain");
    if (text.length > MOST_PASTED) {
      event.preventDefault();
      const { value, selectionStart, selectionEnd } = the("passages");
      this.#setText(value.slice(0, selectionStart) + text + value.slice(selectionEnd), "The pasted list");
    }
    setTimeout(() => this.#takeQuery());
  }

  /** A pasted or opened list may bring its query. */
  #takeQuery() {
    this.#readPassages();
    if (this.#read.query) the("query").value = this.#read.query;
    this.#mark("query", "");
  }

  async #open(file) {
    if (file.size > facts.max_body_bytes) {
      this.#mark("passages", `${file.name} has ${megabytes(file.size)}, the server takes ${megabytes(facts.max_body_bytes)}. It was not read.`);
      return;
    }
    try {
      this.#setText(new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer()), file.name);
      this.#takeQuery();
    } catch {
      this.#mark("passages", `${file.name} is not text in UTF-8.`);
    }
  }

  #takeDrops(place) {
    const isFile = (event) => event.dataTransfer?.types.includes("Files");
    // Anywhere on the page: a browser would leave it for the file.
    addEventListener("dragover", (event) => {
      if (!isFile(event)) return;
      event.preventDefault();
      place.classList.add("drop");
    });
    addEventListener("dragleave", (event) => { if (!event.relatedTarget) place.classList.remove("drop"); });
    addEventListener("drop", (event) => {
      place.classList.remove("drop");
      if (!isFile(event)) return;
      event.preventDefault();
      this.#open(event.dataTransfer.files[0]);
    });
  }

  #mark(field, sentence) {
    the(field).setAttribute("aria-invalid", String(Boolean(sentence)));
    const place = the(`${field}-wrong`);
    place.textContent = sentence;
    place.hidden = !sentence;
  }

  #selects() {
    return [...the("model-list").querySelectorAll("select")];
  }

  #chooseModels(wanted) {
    this.#wanted = wanted;
    const ids = this.#models.map((one) => one.id);
    const base = this.#models.find((one) => one.parent === null)?.id;
    const known = [...new Set(wanted.map((one) => one ?? base))].filter((one) => ids.includes(one));
    the("model-list").replaceChildren();
    for (const id of known.length ? known : [ids[0]]) this.#addModel(id);
    this.#fitModels();
  }

  /** Two models where they are judged. */
  #fitModels() {
    if (this.mode === "judge" && this.#models.length) {
      while (this.#selects().length > 2) this.#selects().at(-1).closest(".model").remove();
      const first = this.#selects()[0].value;
      if (this.#selects().length < 2) this.#addModel(this.#models.map((one) => one.id).find((id) => id !== first));
    }
    this.#showModels();
  }

  #addModel(id) {
    const select = h("select", { "aria-label": "Model" }, ...this.#models.map((one) => h("option", { value: one.id }, one.id)));
    if (id) select.value = id;
    select.disabled = this.#models.length === 0;
    const remove = () => {
      row.remove();
      this.#showModels();
      this.#selects().at(-1).focus();
    };
    const row = h(
      "div",
      { class: "model" },
      h("span", { class: "letter", "aria-hidden": "true" }),
      select,
      h("button", { type: "button", class: "small quiet", onclick: remove }, "Remove"),
    );
    the("model-list").append(row);
    this.#showModels();
  }

  #showModels() {
    const rows = [...the("model-list").children];
    rows.forEach((row, place) => {
      row.querySelector(".letter").textContent = "ABC"[place];
      row.dataset.place = place;
      row.querySelector("select").setAttribute("aria-label", rows.length > 1 ? `Model ${"ABC"[place]}` : "Model");
      row.querySelector("button").hidden = rows.length < (this.mode === "judge" ? 3 : 2);
    });
    the("model-list").dataset.count = rows.length;
    the("model-add").hidden = rows.length >= Math.min(this.mode === "judge" ? 2 : MOST_MODELS, this.#models.length);
  }
}

/** A whole number from a field; null where it is empty, undefined where it is none. */
function whole(id) {
  const { value, validity } = the(id);
  if (value === "" && !validity.badInput) return null;
  const number = Number(value);
  return Number.isInteger(number) && number > 0 ? number : undefined;
}

const megabytes = (bytes) => (bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(1)} MB`);
