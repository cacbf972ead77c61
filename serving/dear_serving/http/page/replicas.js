// Gateways and engines: what each does, has and holds.
import { count, h } from "./dom.js";
import { keyed, meter, percent, put, redo, short } from "./live.js";

const STATES = {
  serving: ["Serves", "good"],
  left_out: ["Left out", "bad"],
  silent: ["Silent", "bad"],
  starting: ["Starts", "warn"],
  ending: ["Ends", "warn"],
  ended: ["Ended", ""],
};
const WHY = {
  left_out: "It failed; gateways send it nothing for a while, then try it with one call.",
  silent: "It does not answer.",
  starting: "It gets no requests yet.",
  ending: "It lets its requests end.",
  ended: "It ran a moment ago.",
};

/** A state in a word. */
export const stateOf = (replica) => STATES[replica.state]?.[0] ?? replica.state;

/** Lists of gateways, engines, and engines of a first stage. Returns `update(view)`. */
export function mountReplicas(gateways, engines, scorers, nothing) {
  const showGateways = keyed(gateways, gatewayCard);
  const showEngines = keyed(engines, engineCard);
  const showScorers = keyed(scorers, engineCard);
  return ({ replicas, history, known }) => {
    const now = history.now;
    const of = (role) => replicas.data.filter((one) => one.role === role).map((one) => ({ ...one, now }));
    showGateways(of("gateway"), (one) => one.id);
    showEngines(of("engine"), (one) => one.id);
    showScorers(of("first_stage"), (one) => one.id);
    scorers.parentElement.hidden = !of("first_stage").length;
    nothing.hidden = of("engine").some((one) => one.state !== "ended") || !known.has("replicas");
  };
}

function card(replica, ...parts) {
  const state = h("span", { class: "tag" });
  const behind = h("span", { class: "tag warn", title: "It does not follow the registry's latest version yet" }, "behind");
  const why = h("p", { class: "faint" });
  const element = h("li", { class: "replica" }, h("div", { class: "row apart" }, h("h4", { class: "mono" }, replica.id), h("span", { class: "row tight" }, behind, state)), why, ...parts);
  return {
    element,
    update(one, said = "") {
      const [word, kind] = STATES[one.state] ?? [one.state, ""];
      put(state, word);
      state.className = `tag ${kind}`;
      element.dataset.state = one.state;
      behind.hidden = one.current !== false || one.state === "ended";
      put(why, said || (WHY[one.state] ?? ""));
      why.hidden = why.textContent === "";
    },
  };
}

function gatewayCard(replica) {
  const load = h("p", { class: "number" });
  const shared = card(replica, load);
  return {
    element: shared.element,
    update(one) {
      shared.update(one);
      load.hidden = one.load === null;
      if (one.load !== null) put(load, `${count(one.load, "request")} in flight, ${short(one.queued_tokens)} tokens of work`);
    },
  };
}

function engineCard(replica) {
  const facts = h("dl", { class: "facts" });
  const fact = (name, ...value) => {
    const shown = h("dd", { class: "number" }, ...value);
    facts.append(h("div", {}, h("dt", {}, name), shown));
    return shown;
  };
  const calls = fact("Calls");
  const vllm = fact("In vLLM");
  const cache = meter();
  const cacheText = h("span", {});
  fact("KV cache", cacheText, cache.element);
  const decoding = fact("Decoding");
  const held = h("ul", { class: "chips", "aria-label": "Revisions that it holds" });
  const scores = replica.role === "first_stage"; // alone: it caches nothing, decodes nothing, holds no adapters
  if (scores) [cacheText, decoding].forEach((one) => one.closest("div").remove());
  const shared = card(replica, facts, ...(scores ? [] : [held]));
  return {
    element: shared.element,
    update(one) {
      shared.update(one, one.state === "left_out" || one.state === "silent" ? seenBy(one) : "");
      facts.hidden = one.state === "ended";
      held.hidden = one.state === "ended";
      put(calls, one.load === null ? "–" : `${one.load}`);
      const labels = { replica: one.id };
      const isKnown = one.now?.has("vllm:num_requests_running", labels) ?? false;
      put(vllm, isKnown ? `${one.now.sum("vllm:num_requests_running", labels)} run, ${one.now.sum("vllm:num_requests_waiting", labels)} wait` : "–");
      const used = isKnown ? one.now.sum("vllm:kv_cache_usage_perc", labels) : 0;
      put(cacheText, isKnown ? percent(used) : "–");
      cache.update(used, used > 0.9 ? "warn" : "");
      const way = one.now?.of("dear_decoder", labels).find((sample) => sample.value === 1)?.labels.dear_decoder;
      const failures = one.now?.sum("dear_decoder_self_check_failures_total", labels) ?? 0;
      const stalled = one.now?.sum("dear_decoder_stalled_windows_total", labels) ?? 0;
      redo(decoding, [way, failures, stalled], () => [
        way ?? "–",
        way === "ordinary" && h("span", { class: "tag warn" }, "slow"),
        failures > 0 && h("span", { class: "tag warn" }, "self-check failed"),
        stalled > 0 && h("span", { class: "tag warn" }, `${count(stalled, "window")} stalled`),
      ]);
      redo(held, one.revisions, () => chips(one.revisions));
    },
  };
}

function seenBy(replica) {
  const others = Object.entries(replica.seen_by).filter(([, sight]) => sight !== "serving");
  const all = Object.keys(replica.seen_by).length;
  const who = others.length === all ? "All gateways see" : `${others.map(([gateway]) => gateway).join(", ")} sees`;
  return `${WHY[replica.state]} ${who} it so.`;
}

function chips(revisions) {
  const names = Object.keys(revisions).sort();
  if (!names.length) return [h("li", { class: "faint" }, "no adapters")];
  return names.map((name) =>
    revisions[name] === "held"
      ? h("li", { class: "tag mono" }, name)
      : h("li", { class: "failed" }, h("span", { class: "tag bad mono" }, name), " ", h("span", { class: "faint" }, revisions[name])),
  );
}
