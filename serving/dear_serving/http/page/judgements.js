// What a reader judged: kept in this tab until it is closed, and written as files that the commands read.

const SLOT = "dear.judgements";

/**
 * A judgement: `query`, `documents` (texts, as the list came), `order` (best first), `relevant` (how many of the first
 * count as relevant), `models` and `better` (one of them, or null where both are alike).
 */
export function judgements() {
  try {
    const found = JSON.parse(sessionStorage.getItem(SLOT) ?? "[]");
    return Array.isArray(found) ? found : [];
  } catch {
    return [];
  }
}

/** Keep one more; of the same list and models the newest counts. Throws where the tab's storage is full. */
export function keep(judgement) {
  const same = ({ query, documents, models }) => JSON.stringify([query, documents, [...models].sort()]);
  const others = judgements().filter((one) => same(one) !== same(judgement));
  sessionStorage.setItem(SLOT, JSON.stringify([...others, judgement]));
}

export const forgetAll = () => sessionStorage.removeItem(SLOT);

/** How often each model was better, and how often both were alike: `[[name, times], ...]`. */
export function tally(all) {
  const times = new Map();
  for (const { better } of all) times.set(better ?? "both alike", (times.get(better ?? "both alike") ?? 0) + 1);
  return [...times];
}

/** Ranked lists, best passage first, a JSON object a line: what `dear training-data` reads. */
export function trainingText(all) {
  return all
    .map(({ query, documents, order, models, better }) => `${JSON.stringify({ query, passages: order.map((index) => documents[index]), models, better })}\n`)
    .join("");
}

/** TREC's judgements: a passage's grade is how many places it stands above the first that is not relevant. */
export function qrelsText(all) {
  return all
    .flatMap(({ order, relevant }, at) => order.map((index, rank) => `q${at + 1} 0 q${at + 1}-${index} ${Math.max(0, relevant - rank)}\n`))
    .join("");
}

/** The lists as they came, in RankGPT's form: what `dear eval --candidates` reads beside the judgements. */
export function candidatesText(all) {
  const lists = all.map(({ query, documents }, at) => ({
    query,
    hits: documents.map((content, index) => ({ content, qid: `q${at + 1}`, docid: `q${at + 1}-${index}`, rank: index + 1 })),
  }));
  return `${JSON.stringify(lists, null, 1)}\n`;
}
