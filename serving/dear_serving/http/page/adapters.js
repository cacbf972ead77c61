// Adapters: the revision that each name points at, those it could point at, and the buttons that move it.
import { count, h } from "./dom.js";
import { keyed, put, rate, since } from "./live.js";

const STATES = {
  registered: ["Loading", "warn"],
  staged: ["Staged", ""],
  active: ["Active", "good"],
  draining: ["Draining", "warn"],
  retired: ["Retired", "off"],
  failed: ["Failed", "bad"],
};
const MOVING = ["registered", "draining"];
const FEW = 4;

/** Whether a revision of these adapters is on its way. */
export const isMoving = (adapters) => adapters.some((one) => one.revisions.some((revision) => MOVING.includes(revision.state)));

/** The digest of a revision's id; its name stands elsewhere. */
export const digestOf = (id) => id.slice(id.lastIndexOf("@") + 1);

/** The list. `swap` is `{activate(adapter, revision), rollback(adapter)}`. Returns `update(view)`. */
export function mountAdapters(list, nothing, swap) {
  const show = keyed(list, (adapter) => adapterCard(adapter, swap));
  return (view) => {
    nothing.hidden = view.adapters.length > 0 || !view.known.has("adapters");
    const engines = view.replicas.data.filter((one) => one.role === "engine" && one.state !== "ended").length;
    show(view.adapters.map((adapter) => ({ adapter, engines, last: view.last })), ({ adapter }) => adapter.name);
  };
}

function adapterCard({ adapter: first }, swap) {
  let adapter = first;
  const serves = h("p", {});
  const whom = h("span", { class: "tag" });
  const back = h("button", { type: "button", class: "small", onclick: () => swap.rollback(adapter) }, "Roll back…");
  const body = h("tbody", { role: "rowgroup" });
  const more = h("button", { type: "button", class: "small quiet" });
  const title = h("h3", { tabindex: "-1", class: "mono" }, first.name);
  back.setAttribute("aria-label", `Roll back ${first.name}…`);
  const table = h(
    "table",
    { role: "table", class: "folding", "aria-label": `Revisions of ${first.name}, newest first` },
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, ...["Revision", "State", "Template", "Held by", "Requests a minute", ""].map((name) => h("th", { role: "columnheader", scope: "col" }, name || h("span", { class: "unseen" }, "Action"))))),
    body,
  );
  const showRows = keyed(body, (one) => revisionRow(one, () => adapter, swap));
  let showsAll = false;
  let latest = null;
  more.addEventListener("click", () => {
    showsAll = !showsAll;
    update(latest);
  });
  const element = h("li", { class: "adapter" }, h("div", { class: "row apart" }, h("div", { class: "row" }, title, whom), back), serves, h("div", { class: "scroll" }, table), more);

  function update(given) {
    latest = given;
    adapter = given.adapter;
    put(whom, adapter.shared ? "all tenants" : "by grant");
    put(serves, adapter.active ? `Requests for it get ${digestOf(adapter.active)}.` : "Not in service: its name points at nothing.");
    serves.className = adapter.active ? "faint" : "is-bad";
    back.hidden = adapter.previous === null;
    // Never hidden: what serves, and what is on its way.
    const shown = adapter.revisions.filter((one, index) => showsAll || index < FEW || one.state === "active" || MOVING.includes(one.state));
    showRows(shown.map((revision) => ({ revision, adapter, engines: given.engines, last: given.last })), (one) => one.revision.id);
    more.hidden = !showsAll && shown.length === adapter.revisions.length;
    put(more, showsAll ? "Show fewer" : `Show ${count(adapter.revisions.length - shown.length, "older revision")}`);
  }
  return { element, update };
}

function revisionRow({ revision: first }, adapterNow, swap) {
  let revision = first;
  const cell = (label, ...inner) => h("td", { role: "cell", "data-label": label }, ...inner);
  const state = h("span", { class: "tag" });
  const changed = since();
  const reason = h("p", { class: "reason" });
  const template = cell("Template");
  const held = cell("Held by");
  const requests = cell("Requests a minute");
  const button = h("button", { type: "button", class: "small", "aria-label": `Activate ${first.id}…`, onclick: () => swap.activate(adapterNow(), revision) }, "Activate…");
  held.classList.add("number");
  requests.classList.add("number");
  const digest = digestOf(first.id);
  const element = h(
    "tr",
    { role: "row" },
    h("th", { role: "rowheader", scope: "row" }, h("span", { class: "mono", title: `${first.id}, rank ${first.rank}, ${(first.bytes / 1e6).toFixed(1)} MB` }, digest)),
    cell("State", h("span", { class: "row tight" }, state, h("span", { class: "faint" }, changed.element)), reason),
    template,
    held,
    requests,
    h("td", { role: "cell", class: "action" }, button),
  );
  return {
    element,
    update({ revision: given, adapter, engines, last }) {
      revision = given;
      const [word, kind] = STATES[revision.state] ?? [revision.state, ""];
      put(state, word);
      state.className = `tag ${kind}`;
      if (element.dataset.state && element.dataset.state !== revision.state) flash(element);
      element.dataset.state = revision.state;
      changed.update(revision.changed);
      const failures = Object.values(revision.replicas).filter((said) => said !== "held");
      put(reason, revision.reason ?? failures[0] ?? "");
      reason.hidden = reason.textContent === "";
      put(template, revision.template);
      put(held, `${Object.keys(revision.replicas).length - failures.length} of ${count(engines, "engine")}`);
      put(requests, last ? rate(last.aMinute("dear_model_requests_total", { revision: revision.id })) : "–");
      const hadFocus = document.activeElement === button;
      button.hidden = revision.id === adapter.active || revision.state === "registered";
      if (hadFocus && button.hidden) element.closest(".adapter").querySelector("h3").focus();
    },
  };
}

function flash(element) {
  element.classList.remove("flash");
  void element.offsetWidth; // so that the animation begins again
  element.classList.add("flash");
}
