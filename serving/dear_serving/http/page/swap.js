// Asks before a name is pointed at another revision: what it will change, for whom, and what happens meanwhile.
import { digestOf } from "./adapters.js";
import { announce, count, h } from "./dom.js";
import { put } from "./live.js";
import { showTrouble } from "./trouble.js";

const pathOf = (name) => `/admin/v1/adapters/${name.split("/").map(encodeURIComponent).join("/")}`;

/** The dialogs. `view()` is what is known now; `done()` is called when the server took a change, `refused(error)`
 *  where the key is not taken. Returns `{activate, rollback, update, close}`. */
export function swapping(api, view, done, refused) {
  let open = null;

  function ask(kind, name, revisionOf) {
    const isBack = kind === "rollback";
    const from = h("p", { class: "mono side" });
    const to = h("p", { class: "mono side" });
    const changed = h("p", { class: "note warn", hidden: true }, "It was switched while you looked: read again what will change.");
    const effects = h("ul", { class: "effects" });
    const trouble = h("div", {});
    const go = h("button", { type: "submit", class: "main" });
    const leave = h("button", { type: "button", onclick: () => box.close() }, "Cancel");
    const form = h(
      "form",
      { class: "stack" },
      h("h2", { id: "swap-title" }, isBack ? "Roll back " : "Activate on ", h("span", { class: "mono" }, name), "?"),
      h("div", { class: "swap" }, h("div", {}, h("p", { class: "faint" }, "Now"), from), h("span", { class: "arrow", "aria-hidden": "true" }, "→"), h("div", {}, h("p", { class: "faint" }, "Then"), to)),
      changed,
      effects,
      trouble,
      h("div", { class: "row end" }, leave, go),
    );
    const box = h("dialog", { class: "card wide", "aria-labelledby": "swap-title" }, form);
    const opener = document.activeElement;
    let shown = null;

    function update() {
      const adapter = view().adapters.find((one) => one.name === name);
      const revision = adapter && revisionOf(adapter);
      if (!revision || revision.id === adapter.active) {
        if (!go.disabled) close(revision ? `${name} points at ${digestOf(revision.id)} already` : `There is nothing to switch ${name} to any more`);
        return;
      }
      put(from, adapter.active ? digestOf(adapter.active) : "nothing: not in service");
      put(to, digestOf(revision.id));
      put(go, isBack ? `Roll back to ${digestOf(revision.id)}` : `Activate ${digestOf(revision.id)}`);
      const now = `${adapter.active} ${revision.id}`;
      if (shown !== null && shown.now !== now) changed.hidden = false;
      shown = { now, revision };
      redraw(effects, effectsOf(adapter, revision, view()));
    }

    function close(said) {
      box.close();
      if (said) announce(said);
    }

    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      if (go.disabled) return;
      go.disabled = true;
      trouble.replaceChildren();
      const revision = shown.revision;
      try {
        // A rollback names its revision, too: somebody else's swap in between may not turn it into another one.
        // The call does not wait: the page shows how far it is.
        await api.call("POST", `${pathOf(name)}/${kind}`, { revision: revision.id, wait_s: 0 });
        close(`${name} is being switched to ${digestOf(revision.id)}`);
        done();
      } catch (error) {
        go.disabled = false;
        if (error.status === 401) {
          close("");
          refused(error);
        } else showTrouble(trouble, error, { retry: () => form.requestSubmit() });
      }
    });
    box.addEventListener("close", () => {
      open = null;
      box.remove();
      opener?.focus();
    });
    open = { update, close: () => box.close() };
    document.body.append(box);
    update();
    if (!box.isConnected) return;
    box.showModal();
    leave.focus();
  }

  return {
    activate: (adapter, revision) => ask("activate", adapter.name, (now) => now.revisions.find((one) => one.id === revision.id)),
    rollback: (adapter) => ask("rollback", adapter.name, (now) => now.revisions.find((one) => one.id === now.previous)),
    update: () => open?.update(),
    close: () => open?.close(),
  };
}

/** What a swap does, in sentences. */
function effectsOf(adapter, revision, { replicas, last }) {
  const engines = replicas.data.filter((one) => one.role === "engine" && one.state !== "ended").length;
  const held = Object.values(revision.replicas).filter((said) => said === "held").length;
  const requests = adapter.active && last ? Math.round(last.aMinute("dear_model_requests_total", { revision: adapter.active })) : null;
  const active = adapter.revisions.find((one) => one.id === adapter.active);
  return [
    `${adapter.shared ? "All tenants get" : "The tenants with a grant get"} the other revision for new requests${requests === null ? "" : `; the present one had ${count(requests, "request")} in the last minute`}.`,
    adapter.active && "Requests in flight end with the revision that they began with.",
    held >= engines && engines > 0
      ? `${engines === 1 ? "The engine holds" : `All ${engines} engines hold`} it: it serves within seconds.`
      : `${held} of ${count(engines, "engine")} ${held === 1 ? "holds" : "hold"} it. The others load and try it first; until then the name stays where it is.`,
    active && active.template !== revision.template && `The prompt template changes from ${active.template} to ${revision.template}.`,
    revision.state === "failed" && `It failed before: ${revision.reason}`,
  ].filter(Boolean);
}

function redraw(list, sentences) {
  if (sentences.join("\n") === [...list.children].map((one) => one.textContent).join("\n")) return;
  list.replaceChildren(...sentences.map((one) => h("li", {}, one)));
}
