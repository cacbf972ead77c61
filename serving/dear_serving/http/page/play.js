// The playground: the form's list goes to each model as a stream of its own, and the results follow.
import { ApiError } from "./api.js";
import { mountBar } from "./bar.js";
import { announceRanks, Results } from "./results.js";
import { Column } from "./column.js";
import { announce, h, sentence, the } from "./dom.js";
import { examples } from "./examples.js";
import { Form } from "./form.js";
import { askWhich, showJudged } from "./judge.js";
import { fromFragment, toFragment } from "./link.js";
import { textOf } from "./passages.js";
import { showTrouble } from "./trouble.js";

const LETTERS = "ABC";
const { api, askKey, onKey } = mountBar("dear.key", "key");
const place = the("results");
const notice = the("notice");
let running = null; // the AbortController of the run in progress
let written = null; // the fragment that this page wrote itself

const form = new Form({
  onGo: () => (running ? running.abort() : run()),
  onShare: share,
  onMode: showMode,
  onExample: () => { notice.replaceChildren(); welcome(); },
});

async function start() {
  await loadModels();
  await loadFragment();
  addEventListener("hashchange", loadFragment);
  onKey(loadModels);
}

async function loadModels() {
  try {
    form.setModels((await api.call("GET", "/v1/models")).data);
    if (notice.dataset.of === "models") notice.replaceChildren();
  } catch (error) {
    notice.dataset.of = "models";
    showTrouble(notice, error, { retry: loadModels, askKey: () => askKey() });
    if (error.status === 401) askKey(api.key ? sentence(error.message) : ""); // its change loads again
  }
}

async function loadFragment() {
  if (location.hash === written) return;
  try {
    const state = await fromFragment(location.hash);
    if (state) form.state = state;
    else if (form.state.query || form.state.passages) return; // a place on the page, as of the link that skips the bar
    else form.setExample(examples[0]);
  } catch (error) {
    form.setExample(examples[0]);
    notice.dataset.of = "link";
    notice.replaceChildren(h("p", { class: "trouble", role: "alert" }, `${error.message} An example stands in its place.`));
  }
  form.setMode(form.mode);
  welcome();
}

/** What stands where the results will be. */
function welcome() {
  running?.abort();
  if (form.mode === "judge") showMode("judge");
  else place.replaceChildren(h("div", { class: "welcome faint" }, h("p", {}, "The order appears here, rank by rank."), h("p", {}, "Change the list to your own, or rank the example first.")));
}

function showMode(mode, isAsked) {
  if (isAsked) running?.abort();
  if (mode === "judge") {
    const judged = h("div");
    place.replaceChildren(h("div", { id: "judging", class: "stack" }), judged);
    showJudged(judged);
  } else if (isAsked) welcome();
}

async function share() {
  const fragment = await toFragment(form.state);
  if (fragment === null) return say("The list is too long for a link.");
  write(fragment);
  try {
    await navigator.clipboard.writeText(location.href);
    say("Link copied");
  } catch {
    say("The link is in the address bar");
  }
}

function say(text) {
  the("share").textContent = text;
  announce(text);
  setTimeout(() => { the("share").textContent = "Copy link"; }, 2500);
}

function write(fragment) {
  written = fragment ?? "";
  history.replaceState(null, "", fragment ?? location.pathname);
}

async function run() {
  const bodies = form.request;
  if (!bodies) return;
  if (bodies.length < 2 && form.mode === "judge") {
    notice.replaceChildren(h("p", { class: "trouble", role: "alert" }, "Judging needs two different models, and there is one."));
    return;
  }
  notice.replaceChildren();
  const control = new AbortController();
  running = control;
  form.setBusy(true);
  try {
    toFragment(form.state).then(write);
    await (form.mode === "judge" ? judge(bodies, control.signal) : compare(bodies, control.signal));
  } finally {
    if (running === control) {
      running = null;
      form.setBusy(false);
    }
  }
}

/** Each model's list beside the others. */
async function compare(bodies, signal) {
  const columns = bodies.map((body, at) => {
    const name = body.model ?? "default model";
    return new Column({ model: name, name, letter: bodies.length > 1 ? LETTERS[at] : "", place: at, documents: body.documents });
  });
  const results = new Results(place, columns);
  showFrom(place);
  await Promise.all(columns.map((column, at) => rank(bodies[at], column, signal, (wallMs) => results.explain(column, wallMs))));
  results.compare();
  results.offer(bodies[0], api.key !== "");
}

/** Two models' lists without their names, on sides drawn by chance. */
async function judge(bodies, signal) {
  const sides = crypto.getRandomValues(new Uint8Array(1))[0] % 2 ? [...bodies].reverse() : bodies;
  const columns = sides.map((body, at) => new Column({ model: body.model, name: `Order ${at + 1}`, letter: "", place: at, documents: body.documents, isBlind: true }));
  showMode("judge");
  const question = h("div");
  const judged = place.lastElementChild;
  the("judging").replaceChildren(h("div", { class: "columns", "data-count": 2 }, columns[0].element, h("div"), columns[1].element), question);
  showFrom(place);
  await Promise.all(columns.map((column, at) => rank(sides[at], column, signal)));
  if (!columns.every((one) => one.reply)) return;
  const list = { query: bodies[0].query, documents: bodies[0].documents.map(textOf) };
  askWhich(question, columns, list, () => { showJudged(judged); });
}

/** Rank with one model, into its column. */
async function rank(body, column, signal, onWhole) {
  const startedMs = performance.now();
  const dear = { ...body.dear, stream: true, explain: true };
  let come = [];
  let frame = 0;
  const showAll = () => {
    cancelAnimationFrame(frame);
    frame = 0;
    column.decide(come);
    come = [];
    announceRanks(column, body.documents);
  };
  try {
    for await (const { name, data } of api.events("/v2/rerank", { ...body, dear }, signal)) {
      if (name === "rank") {
        come.push(data);
        if (column.firstRankMs === null) {
          column.firstRankMs = performance.now() - startedMs;
          showAll();
        } else frame ||= requestAnimationFrame(showAll);
      } else if (name === "ranking") {
        const wallMs = performance.now() - startedMs;
        column.decide(come);
        come = [];
        column.finish(data);
        announceRanks(column, body.documents);
        onWhole?.(wallMs);
      }
    }
  } catch (error) {
    showAll();
    if (error.name === "AbortError") column.stop();
    else {
      const failure = error instanceof ApiError ? error : new ApiError(`The page failed: ${error.message}`);
      column.fail(failure, { retry: again, askKey: async () => { if (await askKey()) again(); } });
      form.markRefused(failure.param, failure.message);
    }
  } finally {
    cancelAnimationFrame(frame);
  }
}

function again() {
  running?.abort();
  run();
}

/** On a narrow screen the results are below the form. */
function showFrom(element) {
  if (element.getBoundingClientRect().top > innerHeight * 0.8) element.scrollIntoView();
}

start();
