// Asks again and again, while someone looks: not in a hidden tab, slower after errors, not at all after a refusal.

const MOST_WAIT_MS = 30_000;

/** Runs `ask(signal)`, which says how many milliseconds later it is to be asked again.
 *
 *  `tell(state)` hears of each change: `{is: "live" | "paused" | "lost" | "refused", error, nextAt}`. `lost`: it is
 *  tried again at `nextAt`; `refused`: the server said no (401, 403, 429), and only `resume()` asks again. */
export class Poller {
  #ask;
  #tell;
  #timer = 0;
  #abort = null;
  #failures = 0;
  #isPaused = false;
  #isRefused = true; // until the first resume()

  constructor(ask, tell) {
    this.#ask = ask;
    this.#tell = tell;
    document.addEventListener("visibilitychange", () => (document.hidden ? this.#stop() : this.#next(0)));
  }

  get isPaused() {
    return this.#isPaused;
  }

  pause() {
    this.#isPaused = true;
    this.#stop();
    this.#tell({ is: "paused" });
  }

  /** Ask now, and go on. */
  resume() {
    this.#isPaused = false;
    this.#isRefused = false;
    this.#next(0);
  }

  /** Ask now, where nothing speaks against it. */
  hurry() {
    this.#next(0);
  }

  #stop() {
    clearTimeout(this.#timer);
    this.#abort?.abort();
    this.#abort = null;
  }

  #next(ms) {
    this.#stop();
    if (document.hidden || this.#isPaused || this.#isRefused) return;
    this.#timer = setTimeout(() => this.#turn(), ms);
  }

  async #turn() {
    const abort = (this.#abort = new AbortController());
    let waitMs;
    try {
      waitMs = await this.#ask(abort.signal);
      if (abort.signal.aborted) return;
      this.#failures = 0;
      this.#tell({ is: "live" });
    } catch (error) {
      if (abort.signal.aborted) return; // another turn has begun, or none is wanted
      if ([401, 403, 429].includes(error.status)) {
        this.#isRefused = true;
        this.#tell({ is: "refused", error });
        return;
      }
      this.#failures += 1;
      waitMs = Math.min(MOST_WAIT_MS, 1000 * 2 ** this.#failures * (0.75 + Math.random() / 2));
      waitMs = Math.max(waitMs, (error.retryAfterS ?? 0) * 1000);
      this.#tell({ is: "lost", error, nextAt: Date.now() + waitMs });
    }
    this.#next(waitMs);
  }
}
