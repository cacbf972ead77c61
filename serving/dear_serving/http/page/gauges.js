// The fleet at a glance: a few numbers with their last minutes, and where the time goes.
import { h, time } from "./dom.js";
import { meter, percent, put, rate, short, sparkline } from "./live.js";

export const KEPT_MS = 5 * 60_000;
export const MINUTE_MS = 60_000;

/** The metrics that the page reads. */
export const WANTED = new Set([
  "dear_gateways",
  "dear_gateways_answered",
  "dear_engines",
  "dear_engines_least",
  "dear_requests_total",
  "dear_requests_in_flight",
  "dear_request_seconds_bucket",
  "dear_request_seconds_count",
  "dear_request_seconds_sum",
  "dear_queued_tokens",
  "dear_queued_tokens_most",
  "dear_tenant_weight",
  "dear_tenant_tokens",
  "dear_tenant_requests_total",
  "dear_model_requests_total",
  "dear_decoder",
  "dear_decoder_self_check_failures_total",
  "dear_decoder_stalled_windows_total",
  "vllm:num_requests_running",
  "vllm:num_requests_waiting",
  "vllm:kv_cache_usage_perc",
  ...["admission", "turn", "engine_queue", "prefill", "decode"].flatMap((stage) =>
    ["bucket", "count", "sum"].map((part) => `dear_${stage}_seconds_${part}`),
  ),
]);

/** Whether a route is a tenant's work, and not a probe, a page or an administrator. */
const isWork = (route) => route.startsWith("/") && !/^\/($|fleet|page\/|docs|redoc|openapi|health|ready|metrics|admin\/|v1\/(models|load_lora|unload_lora))/.test(route);

function tile(list, name, { hasLine = true, hasMeter = false } = {}) {
  const number = h("strong", { class: "number" }, "–");
  const unit = h("span", {});
  const more = h("p", { class: "faint number" });
  const line = hasLine ? sparkline(KEPT_MS) : null;
  const bar = hasMeter ? meter() : null;
  const element = h("li", { class: "tile" }, h("p", { class: "tile-name" }, name), h("p", { class: "tile-number" }, number, " ", unit), more, bar?.element, line?.element);
  list.append(element);
  const points = [];
  return {
    show(text, units = "", said = "", kind = "") {
      put(number, text);
      put(unit, units);
      put(more, said);
      element.className = `tile ${kind}`;
    },
    bar: bar ? (part, kind) => bar.update(part, kind) : null,
    point(at, value) {
      if (points.at(-1)?.at === at) return;
      points.push({ at, value });
      while (at - points[0].at > KEPT_MS) points.shift();
      line.update(points);
    },
  };
}

/** The tiles. Returns `update(view)`. */
export function mountTiles(list) {
  const engines = tile(list, "Engines", { hasLine: false });
  const requests = tile(list, "Requests");
  const latency = tile(list, "Time of a request");
  const queued = tile(list, "Work taken on", { hasMeter: true });
  const refused = tile(list, "Refused");

  return ({ replicas, history, last, known }) => {
    const now = history.now;
    const role = (name) => replicas.data.filter((one) => one.role === name && one.state !== "ended");
    const serving = role("engine").filter((one) => one.state === "serving").length;
    const least = now?.sum("dear_engines_least") ?? 0;
    const all = Math.max(role("engine").length, least);
    const gateways = role("gateway");
    const answering = gateways.filter((one) => one.state === "serving").length;
    if (known.has("replicas")) engines.show(`${serving}`, `of ${all} serve`, `${answering} of ${gateways.length} gateways`, serving === 0 ? "bad" : serving < all ? "warn" : "");
    if (!now) return;
    const most = now.sum("dear_queued_tokens_most");
    const waiting = now.sum("dear_queued_tokens");
    queued.show(short(waiting), "tokens", most ? `${percent(waiting / most)} of the most, ${short(most)}` : "");
    queued.bar(most ? waiting / most : 0, waiting > 0.75 * most ? "warn" : "");
    queued.point(now.at, waiting);
    if (!last) return;

    const inFlight = now.sum("dear_requests_in_flight");
    const work = { route: isWork };
    const each = last.count("dear_requests_total", work) / last.seconds;
    requests.show(rate(each), "a second", `${inFlight} in flight`);
    requests.point(now.at, each);
    const took = last.histogram("dear_request_seconds", work);
    if (took.count) latency.show(time(took.quantile(0.95) * 1000), "p95", `half within ${time(took.quantile(0.5) * 1000)}`);
    else latency.show("–", "", "no request in the last minute");
    latency.point(now.at, took.count ? took.quantile(0.95) : 0);
    const limited = last.aMinute("dear_requests_total", { route: isWork, status: "429" });
    const failed = last.aMinute("dear_requests_total", { route: isWork, status: (status) => status >= "500" });
    refused.show(rate(limited), "a minute", `${rate(failed)} failed a minute`, failed >= 0.5 ? "bad" : limited >= 0.5 ? "warn" : "");
    refused.point(now.at, limited + failed);
  };
}

const STAGES = [
  ["admission", "Gateway", "key, body, prompts, budgets; a request", "the gateway's own work"],
  ["turn", "Turn", "waits for its tenant's turn; a window", "waiting for a turn: the engines are full"],
  ["engine_queue", "Engine queue", "waits for cache memory and for vLLM", "waiting inside the engines, for cache memory and for vLLM"],
  ["prefill", "Prefill", "the prompt, and the first step", "reading prompts"],
  ["decode", "Decode", "the further steps", "deciding ranks, step by step"],
];

/** Where the time goes, by stage. Returns `update(view)`. */
export function mountTimes(list, summary) {
  const rows = STAGES.map(([stage, name, what]) => {
    const bar = meter();
    const number = h("span", { class: "number" });
    list.append(h("li", { class: "stage" }, h("span", { class: "stage-name" }, h("b", {}, name), " ", h("span", { class: "faint" }, what)), number, bar.element));
    return { stage, bar, number };
  });
  return ({ last }) => {
    const found = rows.map(({ stage }) => last?.histogram(`dear_${stage}_seconds`) ?? { count: 0, mean: 0 });
    const most = Math.max(...found.map((one) => one.mean));
    found.forEach((one, index) => {
      const { bar, number } = rows[index];
      put(number, one.count ? `${time(one.mean * 1000)}, p95 ${time(one.quantile(0.95) * 1000)}` : "–");
      bar.update(most ? one.mean / most : 0, one.mean === most ? "main" : "");
    });
    const slowest = STAGES[found.findIndex((one) => one.mean === most)];
    put(summary, most ? `In the last minute most time went into ${slowest[3]}.` : last ? "Nothing was asked for in the last minute." : "Known after a second reading.");
  };
}
