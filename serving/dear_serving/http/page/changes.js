// The last entries of the audit trail.
import { h } from "./dom.js";
import { keyed, put, since } from "./live.js";

const WORDS = {
  "tenant.create": "created tenant",
  "tenant.change": "changed tenant",
  "tenant.delete": "removed tenant",
  "grant.add": "granted an adapter to",
  "grant.remove": "took an adapter from",
  "key.create": "created key",
  "key.rotate": "replaced key",
  "key.revoke": "revoked key",
  "adapter.register": "registered",
  "adapter.activate": "activated",
  "adapter.rollback": "rolled back to",
  "adapter.retire": "retired",
  "adapter.share": "changed who may use",
  "adapter.fail": "could not stage",
};

/** The list. Returns `update(view)`. */
export function mountChanges(list, nothing) {
  const show = keyed(list, entry);
  return ({ changes, known }) => {
    nothing.hidden = changes.length > 0 || !known.has("changes");
    // Entries have no id: those of one second and subject are told apart by their count.
    const seen = new Map();
    const keys = [...changes].reverse().map((one) => {
      const what = JSON.stringify([one.at, one.actor, one.action, one.subject, one.detail]);
      seen.set(what, (seen.get(what) ?? 0) + 1);
      return `${what}${seen.get(what)}`;
    });
    keys.reverse();
    show(changes.map((one, index) => ({ ...one, key: keys[index] })), (one) => one.key);
  };
}

function entry(change) {
  const time = since();
  const detail = Object.entries(change.detail)
    .filter(([, value]) => value !== "" && (value !== null || change.action.endsWith(".change")))
    .map(([name, value]) => `${name.replaceAll("_", " ")} ${said(value)}`);
  const isBad = change.action === "adapter.fail";
  return {
    element: h(
      "li",
      { class: "change" },
      h("p", {}, h("b", {}, change.actor), ` ${WORDS[change.action] ?? change.action} `, h("span", { class: `mono ${isBad ? "is-bad" : ""}` }, change.subject)),
      h("p", { class: "faint" }, time.element, detail.length > 0 && ` · ${detail.join(", ")}`),
    ),
    update(one) {
      time.update(one.at);
    },
  };
}

function said(value) {
  if (value === null) return "none";
  return typeof value === "object" ? JSON.stringify(value) : `${value}`;
}
