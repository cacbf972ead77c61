// The fleet's page: replicas, adapters, tenants and the last changes, from the admin API and the metrics.
import { isMoving, mountAdapters } from "./adapters.js";
import { mountBar } from "./bar.js";
import { mountChanges } from "./changes.js";
import { announce, h, the } from "./dom.js";
import { KEPT_MS, MINUTE_MS, mountTiles, mountTimes, WANTED } from "./gauges.js";
import { ago, put } from "./live.js";
import { Poller } from "./poller.js";
import { History, Reading } from "./prometheus.js";
import { mountReplicas, stateOf } from "./replicas.js";
import { swapping } from "./swap.js";
import { mountTenants } from "./tenants.js";
import { showTrouble } from "./trouble.js";

const CALM_MS = 3000;
const MOVING_MS = 1000;
// What many pages ask for at once may be a moment old: the gateways are asked for it once.
const SHARED = { "Cache-Control": "max-age=1" };
const SHARED_METRICS = { "Cache-Control": "max-age=2" };

const { api, askKey, onKey } = mountBar("dear.admin-key", "admin key");
const view = {
  replicas: { version: 0, data: [] },
  adapters: [],
  tenants: [],
  changes: [],
  history: new History(KEPT_MS, (one, other) => one.sum("dear_gateways_answered") === other.sum("dear_gateways_answered")),
  last: null,
  known: new Set(), // what came at least once: until then nothing can be said of it
};
const swap = swapping(api, () => view, () => poller.resume(), (error) => onState({ is: "refused", error }));
const parts = [
  mountTiles(the("tiles")),
  mountTimes(the("times"), the("times-summary")),
  mountReplicas(the("gateways"), the("engines"), the("scorers"), the("no-engines")),
  mountAdapters(the("adapters"), the("no-adapters"), swap),
  mountTenants(the("tenants"), the("tenant-tools"), the("no-tenants")),
  mountChanges(the("changes"), the("no-changes")),
  swap,
].map((part) => part.update ?? part);

let turns = 0;
let adoptedVersion = -1;
let newestChange = "";
let lastSeen = 0;
let state = { is: "none" };
let toSay = [];

/** One round of questions. Returns after how many milliseconds the next is due. */
async function ask(signal) {
  const get = (path) => api.call("GET", path, undefined, signal);
  const isFirst = lastSeen === 0;
  toSay = [];
  const before = view.replicas;
  const wasMoving = isMoving(view.adapters);
  const [replicas, metrics, changes] = await Promise.allSettled([
    api.send("GET", "/admin/v1/replicas", undefined, signal, SHARED).then((reply) => reply.json()),
    api.send("GET", "/metrics", undefined, signal, SHARED_METRICS).then(read),
    get("/admin/v1/audit?limit=20"),
  ]);
  // With the metrics alone, there is something to look at; without an answer, nothing is new.
  const refused = [replicas, metrics, changes].find((one) => [401, 403, 429].includes(one.reason?.status));
  if (refused) throw refused.reason;
  if ([replicas, metrics, changes].every((one) => one.status === "rejected")) throw replicas.reason;
  if (replicas.status === "fulfilled") know("replicas", replicas.value);
  if (changes.status === "fulfilled") know("changes", changes.value.data);
  if (metrics.status === "fulfilled") view.history.add(metrics.value);
  view.last = view.history.last(MINUTE_MS);

  let trouble = [replicas, metrics, changes].find((one) => one.status === "rejected")?.reason;
  const change = JSON.stringify(view.changes[0] ?? null);
  const isRegular = turns % 10 === 0;
  const asksAdapters = isRegular || wasMoving || view.replicas.version !== adoptedVersion || change !== newestChange;
  const asksTenants = isRegular || change !== newestChange;
  try {
    if (asksAdapters && !trouble) setAdapters(await all("/admin/v1/adapters", get), isFirst);
    if (asksTenants && !trouble) know("tenants", await all("/admin/v1/tenants", get));
    if (!trouble) [adoptedVersion, newestChange, turns] = [view.replicas.version, change, turns + 1];
  } catch (error) {
    if (signal.aborted || [401, 403, 429].includes(error.status)) throw error;
    trouble = error;
  }
  lastSeen = Date.now();
  the("fleet").hidden = false;
  parts.forEach((update) => update(view));
  if (!isFirst && replicas.status === "fulfilled") announceReplicas(before.data, view.replicas.data);
  showPart(trouble);
  const isBehind = view.replicas.data.some((one) => one.state === "starting" || one.current === false);
  if (trouble) return Math.max(CALM_MS * 2, (trouble.retryAfterS ?? 0) * 1000);
  return isMoving(view.adapters) || isBehind ? MOVING_MS : CALM_MS;
}

function know(name, found) {
  view[name] = found;
  view.known.add(name);
}

async function read(reply) {
  const at = Date.now() - (Number(reply.headers.get("age")) || 0) * 1000;
  return new Reading(await reply.text(), at, WANTED);
}

/** All pages of a list; ten thousand at most. */
async function all(path, get) {
  const found = [];
  let after = "";
  for (let page = 0; page < 10; page += 1) {
    const { data, next } = await get(`${path}?limit=1000&after=${encodeURIComponent(after)}`);
    found.push(...data);
    if (next === null) break;
    after = next;
  }
  return found;
}

function setAdapters(adapters, isFirst) {
  const before = new Map(view.adapters.map((one) => [one.name, one]));
  know("adapters", adapters);
  if (isFirst) return;
  const said = [];
  for (const one of adapters) {
    const old = before.get(one.name);
    if (one.active !== (old?.active ?? null)) said.push(one.active ? `${one.name} now serves ${one.active}` : `${one.name} is out of service`);
    for (const revision of one.revisions) {
      const was = old?.revisions.find((other) => other.id === revision.id)?.state;
      if (was !== revision.state && revision.state === "failed") said.push(`${revision.id} failed: ${revision.reason}`);
    }
  }
  say(said);
}

const nameOf = (replica) => `${replica.role.replace("_", " ")} ${replica.id}`;

function announceReplicas(before, now) {
  const old = new Map(before.map((one) => [one.id, one]));
  const said = now.filter((one) => old.get(one.id)?.state !== one.state).map((one) => `${nameOf(one)}: ${stateOf(one)}`);
  for (const one of before) if (one.state !== "ended" && !now.some((other) => other.id === one.id)) said.push(`${nameOf(one)}: gone`);
  say(said);
}

/** Announce together what one round found. */
function say(said) {
  toSay.push(...said);
  if (said.length) announce(toSay.join(". "));
}

/** Some of what was asked for did not come. */
function showPart(error) {
  the("part").hidden = !error;
  if (error) put(the("part"), `Some of this is not new: ${error.message}`);
}

const pause = the("pause");
const poller = new Poller(ask, onState);

function onState(now) {
  const before = state.is;
  state = now;
  if (now.is === "refused") {
    swap.close();
    showTrouble(the("trouble"), now.error, { retry: () => poller.resume(), askKey: () => askKey() });
    if (now.error.status === 401) askKey(api.key ? "The server does not take this key, or not any more." : "");
  } else if (now.is === "lost") {
    if (before !== "lost") announce(`The connection is lost. ${now.error.message}`);
  } else if (now.is === "live") {
    if (before === "lost") say(["Connected again"]);
    the("trouble").replaceChildren();
  }
  showState();
}

/** The line beside the title: is this new? */
function showState() {
  const words = { none: "", live: "Live", paused: "Paused", lost: "No answer", refused: "Stopped" };
  const element = the("state");
  element.dataset.is = state.is;
  const seen = lastSeen && state.is !== "live" ? `, last seen ${ago(lastSeen)}` : "";
  put(the("state-text"), words[state.is] + seen);
  the("fleet").classList.toggle("stale", lastSeen > 0 && (state.is === "lost" || state.is === "refused"));
  pause.hidden = !["live", "paused", "lost"].includes(state.is);
  put(pause, state.is === "paused" ? "Go on" : "Pause");
  if (state.is === "lost") showLost();
  the("door").hidden = lastSeen > 0 || state.is === "lost" || api.key !== "";
}

function showLost() {
  const place = the("trouble");
  const left = Math.max(0, Math.ceil((state.nextAt - Date.now()) / 1000));
  if (!place.querySelector("[data-lost]")) {
    const button = h("button", { type: "button", onclick: () => poller.hurry() }, "Try now");
    place.replaceChildren(h("div", { class: "trouble", "data-lost": true }, h("p", {}), h("p", { class: "faint" }), h("div", { class: "row" }, button)));
  }
  const [what, when] = place.querySelectorAll("p");
  put(what, state.error.message);
  put(when, left ? `Tried again in ${left} s.${lastSeen ? " What you see is from before." : ""}` : "Trying again.");
}

pause.addEventListener("click", () => (poller.isPaused ? poller.resume() : poller.pause()));
the("give-key").addEventListener("click", () => askKey());
setInterval(() => { if (!document.hidden) showState(); }, 1000);
onKey(() => {
  the("trouble").replaceChildren();
  if (api.key) return poller.resume();
  location.reload(); // nothing of the fleet stays on the screen
});
showState();
if (api.key) poller.resume();
else askKey();
