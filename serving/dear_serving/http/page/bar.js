// The bar on top of both pages: links that lead somewhere here, and the key of this tab.
import { Api } from "./api.js";
import { facts, h, the } from "./dom.js";

/** Set up the bar. Returns the page's Api, and `askKey(reason)`, which resolves to whether one was given. */
export function mountBar(slot, kind) {
  if (facts.has_admin_port) {
    // The pages are on different ports; which one the reader can reach is the operator's to say.
    const here = document.querySelector("nav [aria-current]").dataset.port ?? "admin";
    for (const link of document.querySelectorAll("header [href]")) {
      if ((link.dataset.port ?? "admin") !== here) link.removeAttribute("href");
      if (!link.hasAttribute("href") && link.closest("nav")) link.remove();
    }
  }
  const api = new Api(slot);
  const button = h("button", { type: "button", class: "small", onclick: () => askKey() });
  const show = () => { button.textContent = api.key ? `Change ${kind}` : `Use ${kind === "admin key" ? "the" : "a"} ${kind}`; };
  const changed = new EventTarget();

  async function askKey(reason = "") {
    const given = await dialog(kind, reason, api.key !== "");
    if (given === null) return false;
    api.key = given;
    show();
    changed.dispatchEvent(new Event("change"));
    return true;
  }

  show();
  the("bar-end").append(button);
  return { api, askKey, onKey: (listener) => changed.addEventListener("change", listener) };
}

/** Asks for a key: its text, "" to forget the one there is, null where the reader left. */
function dialog(kind, reason, hasOne) {
  const input = h("input", { type: "password", id: "key", autocomplete: "off", spellcheck: "false", "aria-describedby": "key-help" });
  const box = h(
    "dialog",
    { class: "card", "aria-labelledby": "key-title" },
    h(
      "form",
      { method: "dialog", class: "stack" },
      h("h2", { id: "key-title" }, kind[0].toUpperCase() + kind.slice(1)),
      reason && h("p", { role: "alert" }, reason),
      h("div", { class: "field" }, h("label", { for: "key" }, "Key"), input),
      h("p", { id: "key-help", class: "faint" }, "It stays in this tab until you close it, and is sent to this server alone."),
      h(
        "div",
        { class: "row end" },
        hasOne && h("button", { value: "forget", class: "quiet" }, "Forget it"),
        h("button", { value: "leave", class: "quiet", formnovalidate: true }, "Cancel"),
        h("button", { value: "use", class: "main" }, "Use it"),
      ),
    ),
  );
  document.body.append(box);
  box.showModal();
  input.focus();
  // Enter in the field is "use", not the form's first button.
  input.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    box.close("use");
  });
  return new Promise((resolve) => {
    box.addEventListener("close", () => {
      const choice = box.returnValue;
      box.remove();
      if (choice === "use" && input.value.trim()) resolve(input.value.trim());
      else resolve(choice === "forget" ? "" : null);
    });
  });
}
