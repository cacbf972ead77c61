// Tenants: their share, what of theirs waits, and what was refused.
import { h } from "./dom.js";
import { MINUTE_MS } from "./gauges.js";
import { keyed, meter, percent, put, rate, short } from "./live.js";

const FEW = 50;
const MANY = 15;

/** The table's body; `tools` gets a filter where there are many. Returns `update(view)`. */
export function mountTenants(body, tools, nothing) {
  const show = keyed(body, row);
  const filter = h("input", { type: "search", id: "tenant-filter", autocomplete: "off", spellcheck: "false" });
  const all = h("button", { type: "button", class: "small" });
  const field = h("div", { class: "field filter" }, h("label", { for: "tenant-filter" }, "Filter"), filter);
  tools.append(field, all);
  let [found, showsAll] = [[], false];
  const draw = () => {
    const wanted = filter.value.trim().toLowerCase();
    const fit = found.filter((one) => one.id.includes(wanted));
    const shown = showsAll ? fit : fit.slice(0, FEW);
    show(shown, (one) => one.id);
    field.hidden = found.length <= MANY;
    all.hidden = shown.length === fit.length;
    put(all, `Show all ${fit.length.toLocaleString("en")}`);
  };
  filter.addEventListener("input", draw);
  all.addEventListener("click", () => {
    showsAll = true;
    draw();
    body.querySelectorAll("tr")[FEW]?.querySelector("th")?.focus();
  });
  return (view) => {
    found = load(view);
    nothing.hidden = found.length > 0 || !view.known.has("tenants");
    body.closest("table").hidden = found.length === 0;
    draw();
  };
}

/** Every tenant with what it has and gets; those with work or refusals first. */
function load({ tenants, history, last }) {
  const now = history.now;
  const known = new Map(tenants.map((one) => [one.id, one]));
  const names = new Set([...known.keys(), ...(now?.of("dear_tenant_requests_total") ?? []).map((one) => one.labels.tenant)]);
  const shares = sharesOf(history.within(MINUTE_MS));
  const found = [...names].map((id) => {
    const labels = { tenant: id };
    return {
      id,
      tenant: known.get(id),
      ...shares(id),
      waiting: now?.sum("dear_tenant_tokens", { ...labels, state: "waiting" }) ?? 0,
      running: now?.sum("dear_tenant_tokens", { ...labels, state: "running" }) ?? 0,
      requests: last?.aMinute("dear_tenant_requests_total", labels) ?? null,
      limited: last?.aMinute("dear_tenant_requests_total", { ...labels, outcome: "limited" }) ?? null,
      failed: last?.aMinute("dear_tenant_requests_total", { ...labels, outcome: (outcome) => outcome === "refused" || outcome === "failed" }) ?? null,
    };
  });
  const isBusy = (one) => Number(one.waiting + one.running > 0 || one.requests > 0);
  return found.sort((a, b) => isBusy(b) - isBusy(a) || (a.id < b.id ? -1 : 1));
}

/** Of the work in the engines: how much was a tenant's, and how much was due by weight while it had work. */
function sharesOf(readings) {
  const running = { state: "running" };
  const all = readings.reduce((sum, one) => sum + one.sum("dear_tenant_tokens", running), 0);
  return (tenant) => {
    const had = readings.filter((one) => one.has("dear_tenant_weight", { tenant }));
    const used = had.reduce((sum, one) => sum + one.sum("dear_tenant_tokens", { ...running, tenant }), 0);
    const due = had.reduce((sum, one) => sum + one.sum("dear_tenant_weight", { tenant }) / one.sum("dear_tenant_weight"), 0);
    return { used: all && had.length ? used / all : null, due: had.length ? due / had.length : null };
  };
}

function row({ id }) {
  const cell = (label, ...inner) => h("td", { role: "cell", "data-label": label, class: "number" }, ...inner);
  const about = h("span", { class: "faint" });
  const weight = cell("Weight");
  const bar = meter();
  const mark = h("span", { class: "due" });
  bar.element.append(mark);
  const shareText = h("span", {});
  const share = cell("Share", shareText, bar.element);
  const waiting = cell("Waiting");
  const running = cell("In engines");
  const requests = cell("Requests");
  const limitedTag = h("span", {});
  const errors = h("span", { class: "faint" });
  const refused = cell("Refused", limitedTag, " ", errors);
  const limits = cell("Limits");
  const name = h("th", { role: "rowheader", scope: "row", tabindex: "-1" }, h("span", { class: "mono" }, id), " ", about);
  const element = h("tr", { role: "row" }, name, weight, share, waiting, running, requests, refused, limits);
  return {
    element,
    update(one) {
      put(about, one.tenant ? "" : aboutNoTenant(id));
      put(weight, one.tenant ? `${one.tenant.weight}` : "1");
      put(shareText, [one.used !== null && `${percent(one.used)} used`, one.due !== null && `${percent(one.due)} due`].filter(Boolean).join(", ") || "–");
      bar.update(one.used ?? 0);
      bar.element.hidden = one.used === null && one.due === null;
      mark.hidden = one.due === null;
      mark.style.insetInlineStart = `${(one.due ?? 0) * 100}%`;
      put(waiting, one.waiting ? short(one.waiting) : "0");
      put(running, one.running ? short(one.running) : "0");
      put(requests, one.requests === null ? "–" : rate(one.requests));
      put(limitedTag, one.limited === null ? "–" : rate(one.limited));
      limitedTag.className = one.limited >= 0.5 ? "tag warn" : "";
      put(errors, one.failed >= 0.5 ? `+ ${rate(one.failed)} with errors` : "");
      put(limits, limitsOf(one.tenant));
    },
  };
}

function aboutNoTenant(id) {
  if (id === "default") return "callers without a key of the registry";
  return id === "others" ? "all after the first thousand" : "removed";
}

function limitsOf(tenant) {
  if (!tenant) return "–";
  const found = [
    tenant.requests_per_minute !== null && `${short(tenant.requests_per_minute)} requests/min`,
    tenant.tokens_per_minute !== null && `${short(tenant.tokens_per_minute)} tokens/min`,
    tenant.requests_in_flight !== null && `${tenant.requests_in_flight} in flight`,
  ].filter(Boolean);
  return found.join(", ") || "none";
}
