// Says what went wrong, and offers what can be done: wait and try again, or another key.
import { announce, h, sentence } from "./dom.js";

/** Show an ApiError in `place`, instead of what is there. `retry` is offered where it can help; where the server
 *  says when, after a countdown. `askKey` is offered for a 401. Returns the element. */
export function showTrouble(place, error, { retry, askKey, kept = "" } = {}) {
  const actions = h("div", { class: "row" });
  const box = h(
    "div",
    { class: "trouble", role: "alert" },
    h("p", {}, h("strong", {}, titleOf(error)), " ", sentence(error.message), kept && ` ${kept}`),
    h("p", { class: "faint" }, [error.param && `Field: ${error.param}.`, error.requestId && `Request ${error.requestId}.`].filter(Boolean).join(" ")),
    actions,
  );
  if (error.status === 401 && askKey) actions.append(h("button", { type: "button", onclick: askKey }, "Give a key"));
  else if (retry && error.isPassing) actions.append(retryButton(error.retryAfterS ?? 0, retry));
  place.replaceChildren(box);
  return box;
}

function titleOf(error) {
  if (error.status === 0) return "No answer.";
  if (error.status === 401) return "A key is needed.";
  if (error.status === 429) return error.code === "rate_limit_exceeded" ? "Your limit is reached." : "The server is busy.";
  if (error.status === 503) return "Not available now.";
  return error.status >= 500 ? "The server failed." : "Refused.";
}

/** A button that counts down and then waits to be pressed: nothing is sent by itself. */
function retryButton(seconds, retry) {
  const button = h("button", { type: "button", onclick: retry }, "Try again");
  let left = seconds;
  const tick = () => {
    button.disabled = left > 0;
    button.textContent = left > 0 ? `Try again in ${left} s` : "Try again";
    if (left > 0) setTimeout(tick, 1000);
    else if (seconds > 0) announce("You can try again now");
    left -= 1;
  };
  tick();
  return button;
}
