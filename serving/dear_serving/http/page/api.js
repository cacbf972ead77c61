// Calls the server that the page came from. A key stays in this tab's session storage and goes nowhere else.

/** An error for people: `status` is 0 where no reply came. `retryAfterS` is the server's wish, in seconds. */
export class ApiError extends Error {
  constructor(message, { status = 0, code = null, param = null, retryAfterS = null, requestId = null } = {}) {
    super(message);
    Object.assign(this, { status, code, param, retryAfterS, requestId });
  }

  /** Whether the same call may go well later. */
  get isPassing() {
    return this.status === 0 || this.status === 429 || this.status === 503;
  }
}

const LOST = "The server may be restarting.";

/** Of errors in a stream, whose status was sent before them. */
const STATUS_OF = { overloaded: 429, rate_limit_exceeded: 429, deadline_exceeded: 504, shutting_down: 503 };

/** Calls with one kind of key; `slot` is its name in session storage. */
export class Api {
  #slot;

  constructor(slot) {
    this.#slot = slot;
  }

  get key() {
    return sessionStorage.getItem(this.#slot) ?? "";
  }

  set key(text) {
    if (text) sessionStorage.setItem(this.#slot, text);
    else sessionStorage.removeItem(this.#slot);
  }

  /** The JSON of a reply. Throws ApiError, and AbortError where `signal` ended it. */
  async call(method, path, body, signal) {
    const reply = await this.send(method, path, body, signal);
    return reply.status === 204 ? null : reading(() => reply.json());
  }

  /** The text of a reply. */
  async text(path, signal) {
    const reply = await this.send("GET", path, undefined, signal);
    return reading(() => reply.text());
  }

  /** A reply of status 2xx, its body unread; `more` are headers to send. */
  async send(method, path, body, signal, more = {}) {
    const headers = { ...more };
    if (this.key) headers.Authorization = `Bearer ${this.key}`;
    if (body !== undefined) headers["Content-Type"] = "application/json";
    const reply = await reading(() =>
      fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body), signal, credentials: "omit", cache: "no-store" }),
    );
    if (reply.ok) return reply;
    throw await refusal(reply);
  }

  /** The events of a stream, `{name, data}` each. Throws ApiError where it fails, breaks or says so. */
  async *events(path, body, signal) {
    const reply = await this.send("POST", path, body, signal);
    const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    let name = "";
    try {
      for (;;) {
        const { value, done } = await reading(() => reader.read());
        if (done) break;
        const lines = (rest + value).split("\n");
        rest = lines.pop();
        for (const line of lines) {
          if (line.startsWith("event:")) name = line.slice(6).trim();
          if (!line.startsWith("data:")) continue;
          const text = line.slice(5).trim();
          if (text === "[DONE]") return;
          const data = JSON.parse(text);
          if (name === "error") throw errorOf(data, statusOf(data.error?.code ?? ""), reply.headers);
          yield { name, data };
        }
      }
    } finally {
      reader.cancel().catch(() => {});
    }
    throw new ApiError("The stream broke off before the ranking was whole.");
  }
}

async function reading(step) {
  try {
    return await step();
  } catch (error) {
    if (error.name === "AbortError" || error instanceof ApiError) throw error;
    throw new ApiError(error instanceof SyntaxError ? "The reply is not the server's: something between answers." : LOST);
  }
}

async function refusal(reply) {
  let body = {};
  try {
    body = await reply.json();
  } catch {
    // A proxy's own page: the status has to do.
  }
  return errorOf(body, reply.status, reply.headers);
}

function statusOf(code) {
  return STATUS_OF[code] ?? (code.endsWith("_unavailable") ? 503 : 500);
}

function errorOf(body, status, headers) {
  const { message, code = null, param = null } = body.error ?? {};
  const seconds = Number.parseInt(headers.get("retry-after") ?? "", 10);
  return new ApiError(message ?? `The server said ${status}.`, {
    status,
    code,
    param,
    retryAfterS: Number.isFinite(seconds) ? seconds : null,
    requestId: headers.get("x-request-id"),
  });
}
