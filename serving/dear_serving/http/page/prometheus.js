// Reads Prometheus' text format, and says what happened between two readings.

const SAMPLE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/;
const LABEL = /([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/g;
const ESCAPED = { n: "\n", '"': '"', "\\": "\\" };

/** One reading: the samples of the metrics wanted, and when they were true, in milliseconds. */
export class Reading {
  #samples = new Map();

  constructor(text, at, wanted) {
    this.at = at;
    for (const line of text.split("\n")) {
      const found = line.startsWith("#") ? null : SAMPLE.exec(line);
      if (!found || !wanted.has(found[1])) continue;
      const value = Number(found[3] === "+Inf" ? Infinity : found[3]);
      if (Number.isNaN(value)) continue; // not known
      if (!this.#samples.has(found[1])) this.#samples.set(found[1], new Map());
      this.#samples.get(found[1]).set(found[2] ?? "", { labels: labelsOf(found[2] ?? ""), value });
    }
  }

  /** Whether a metric has samples with these labels. */
  has(name, labels = {}) {
    return this.of(name, labels).length > 0;
  }

  /** `{key, labels, value}` of all samples of a metric; `labels` are values, or tests of them. */
  of(name, labels = {}) {
    const found = [];
    for (const [key, one] of this.#samples.get(name) ?? []) {
      if (Object.entries(labels).every(([label, test]) => (typeof test === "function" ? test(one.labels[label]) : one.labels[label] === test))) {
        found.push({ key, ...one });
      }
    }
    return found;
  }

  value(name, key) {
    return this.#samples.get(name)?.get(key)?.value ?? 0;
  }

  sum(name, labels) {
    return this.of(name, labels).reduce((sum, one) => sum + one.value, 0);
  }
}

function labelsOf(text) {
  const labels = {};
  for (const [, name, value] of text.matchAll(LABEL)) labels[name] = value.replace(/\\(.)/g, (_, one) => ESCAPED[one] ?? one);
  return labels;
}

/** What was counted between two readings. A counter that fell, since a process ended, counts as still. */
export class Between {
  constructor(before, now) {
    this.before = before;
    this.now = now;
    this.seconds = (now.at - before.at) / 1000;
  }

  count(name, labels) {
    return this.now.of(name, labels).reduce((sum, one) => sum + Math.max(0, one.value - this.before.value(name, one.key)), 0);
  }

  aMinute(name, labels) {
    return (this.count(name, labels) / this.seconds) * 60;
  }

  /** Of a histogram: how many, their mean, and `quantile(q)` as PromQL estimates it; in its own unit. */
  histogram(name, labels) {
    const buckets = new Map();
    for (const one of this.now.of(`${name}_bucket`, labels)) {
      const edge = one.labels.le === "+Inf" ? Infinity : Number(one.labels.le);
      const grown = Math.max(0, one.value - this.before.value(`${name}_bucket`, one.key));
      buckets.set(edge, (buckets.get(edge) ?? 0) + grown);
    }
    const edges = [...buckets].sort(([a], [b]) => a - b);
    const count = this.count(`${name}_count`, labels);
    return {
      count,
      mean: count ? this.count(`${name}_sum`, labels) / count : 0,
      quantile: (q) => quantile(edges, q),
    };
  }
}

function quantile(edges, q) {
  const rank = q * (edges.at(-1)?.[1] ?? 0);
  let [low, below] = [0, 0];
  for (const [edge, upTo] of edges) {
    if (upTo >= rank && upTo > below) return edge === Infinity ? low : low + ((edge - low) * (rank - below)) / (upTo - below);
    [low, below] = [edge, upTo];
  }
  return 0;
}

/** The readings of the last minutes, the newest last. */
export class History {
  #readings = [];

  constructor(keptMs, isLike) {
    this.keptMs = keptMs;
    this.isLike = isLike;
  }

  get now() {
    return this.#readings.at(-1);
  }

  /** Add a reading. One that is older than the newest, from a gateway with an older answer, is left out. */
  add(reading) {
    if (this.now && reading.at <= this.now.at) return;
    this.#readings.push(reading);
    while (reading.at - this.#readings[0].at > this.keptMs) this.#readings.shift();
  }

  /** What was counted in the last `ms`, or as much of that as is known; null: too little is. Readings that
   *  not the same gateways answered cannot be compared. */
  last(ms) {
    const now = this.now;
    let before = null;
    for (let index = this.#readings.length - 2; index >= 0; index -= 1) {
      const one = this.#readings[index];
      if (!this.isLike(one, now)) break;
      before = one;
      if (now.at - one.at >= ms) break;
    }
    return before && now.at - before.at >= 500 ? new Between(before, now) : null;
  }

  /** The readings of the last `ms`. */
  within(ms) {
    return this.#readings.filter((one) => this.now.at - one.at <= ms);
  }
}
