// Reads passages out of what was typed, pasted or dropped: a line each, JSON or JSONL.

const LISTS = ["documents", "passages", "texts"];

/**
 * What a text holds: `{documents, query, form, note}`. A document is a text, or an object as the server takes it;
 * `query` is there where the text brings one. Throws an Error with a sentence for the reader.
 */
export function readPassages(text) {
  const trimmed = text.trim();
  if (!trimmed) return { documents: [], query: null, form: "", note: "" };
  if (/^[[{"]/.test(trimmed)) {
    const whole = parse(trimmed);
    if (Array.isArray(whole)) return fromList(whole, "JSON");
    if (isObject(whole)) return fromObject(whole, "JSON");
    const lines = nonEmpty(text).map(parse);
    if (lines.length > 1 && lines.every((one) => one !== undefined)) return fromList(lines, "JSONL");
  }
  const looksLikeJson = /^[[{]\s*["{]/.test(trimmed);
  return {
    documents: nonEmpty(text),
    query: null,
    form: "one a line",
    note: looksLikeJson ? "It begins like JSON but is none, so each line is a passage." : "",
  };
}

/** What people see of a document. */
export function textOf(document) {
  if (typeof document === "string") return document;
  if (typeof document.text === "string" && Object.keys(document).length === 1) return document.text;
  return Object.entries(document)
    .map(([name, value]) => `${name}: ${typeof value === "string" ? value : JSON.stringify(value)}`)
    .join("\n");
}

function nonEmpty(text) {
  return text.split(/\r?\n/).map((line) => line.trim()).filter(Boolean);
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

function fromObject(found, form) {
  const name = LISTS.find((one) => Array.isArray(found[one]));
  if (name === undefined) return fromList([found], form);
  const list = fromList(found[name], form);
  return { ...list, query: typeof found.query === "string" ? found.query : null };
}

function fromList(found, form) {
  const [first] = found;
  if (isObject(first)) {
    // Whole lists, as `dear training-data` and RankGPT's files have them.
    const hits = Array.isArray(first.hits) ? first.hits.map((hit) => hit.content) : null;
    if (hits) return several({ documents: texts(hits), query: String(first.query ?? "") }, found.length, form);
    if (LISTS.some((one) => Array.isArray(first[one]))) return several(fromObject(first, form), found.length, form);
  }
  return { documents: texts(found), query: null, form, note: "" };
}

function several(list, count, form) {
  return { ...list, form, note: count > 1 ? `The first of ${count} lists is taken.` : "" };
}

function texts(found) {
  found.forEach((one, place) => {
    if (typeof one !== "string" && !isObject(one)) {
      throw new Error(`Passage ${place} is neither a text nor an object.`);
    }
  });
  return found;
}
