// The request as something to paste elsewhere.

/** The request in three languages: `{curl, Python, JavaScript}`. `body` is what the page sent, without its stream. */
export function snippets(body, origin, hasKey) {
  return { curl: curl(body, origin, hasKey), Python: python(body, origin, hasKey), JavaScript: javascript(body, origin, hasKey) };
}

const pretty = (value) => JSON.stringify(value, null, 2);

function curl(body, origin, hasKey) {
  const key = hasKey ? ` \\\n  -H "Authorization: Bearer $DEAR_API_KEY"` : "";
  const data = pretty(body).replaceAll("'", "'\\''");
  return `curl -s ${origin}/v2/rerank${key} \\\n  -H 'Content-Type: application/json' \\\n  -d '${data}'`;
}

function python({ model, query, documents, top_n: topN, dear = {} }, origin, hasKey) {
  const options = { model, top_n: topN, ...dear };
  if (dear.deadline_ms) Object.assign(options, { deadline_ms: undefined, deadline_s: dear.deadline_ms / 1000 });
  const given = Object.entries(options).filter(([, value]) => value !== undefined);
  const lines = ["from dear_client import Client", "", `query = ${pythonic(query)}`, `passages = ${pythonic(documents)}`];
  if (hasKey) lines.push("# The key is read from DEAR_API_KEY.");
  lines.push(
    `with Client(${pythonic(origin)}) as client:`,
    `    ranking = client.rerank(${["query", "passages", ...given.map(([name, value]) => `${name}=${pythonic(value)}`)].join(", ")})`,
    "for result in ranking.results:",
    '    print(f"{result.relevance_score:.2f}  {result.text}")',
  );
  return lines.join("\n");
}

/** A JSON value as Python writes it. JSON's texts are Python's, but for a few that only JSON has no escape for. */
function pythonic(value, indent = "") {
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const inner = `${indent}    `;
  const items = Array.isArray(value)
    ? value.map((one) => pythonic(one, inner))
    : Object.entries(value).map(([name, one]) => `${JSON.stringify(name)}: ${pythonic(one, inner)}`);
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  return items.length ? `${open}\n${items.map((one) => `${inner}${one},\n`).join("")}${indent}${close}` : open + close;
}

function javascript(body, origin, hasKey) {
  const key = hasKey ? "\n    Authorization: `Bearer ${process.env.DEAR_API_KEY}`," : "";
  return `const reply = await fetch(${JSON.stringify(`${origin}/v2/rerank`)}, {
  method: "POST",
  headers: {
    "Content-Type": "application/json",${key}
  },
  body: JSON.stringify(${pretty(body).replaceAll("\n", "\n  ")}),
});
const { results } = await reply.json();
for (const { index, relevance_score } of results) console.log(index, relevance_score);`;
}
