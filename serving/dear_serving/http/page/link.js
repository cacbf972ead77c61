// The state of the page as a link: JSON, compressed, in the URL's fragment, which browsers send to nobody.

const BEGIN = "#s=";
const LONGEST = 100_000; // of a link that mail and chat still take is less, of one that browsers take more

/** The fragment of a state; null where it would be too long. */
export async function toFragment(state) {
  const packed = await through(new CompressionStream("deflate-raw"), new TextEncoder().encode(JSON.stringify(state)));
  let text = "";
  for (let at = 0; at < packed.length; at += 0x8000) text += String.fromCharCode(...packed.subarray(at, at + 0x8000));
  const fragment = BEGIN + btoa(text).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
  return fragment.length > LONGEST ? null : fragment;
}

/** The state in a fragment; null where it has none. Throws an Error with a sentence where it is broken. */
export async function fromFragment(fragment) {
  if (!fragment.startsWith(BEGIN)) return null;
  try {
    const text = atob(fragment.slice(BEGIN.length).replaceAll("-", "+").replaceAll("_", "/"));
    const bytes = await through(new DecompressionStream("deflate-raw"), Uint8Array.from(text, (one) => one.charCodeAt(0)));
    return checked(JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes)));
  } catch {
    throw new Error("This link's list cannot be read: a part of the link is missing or changed.");
  }
}

async function through(stream, bytes) {
  return new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(stream)).arrayBuffer());
}

/** Only what the page knows, of the right types: a link may be anybody's. */
function checked(state) {
  const text = (value) => (typeof value === "string" ? value : "");
  const number = (value) => (Number.isInteger(value) && value > 0 ? value : null);
  return {
    query: text(state.query),
    passages: text(state.passages),
    instruction: text(state.instruction),
    models: (Array.isArray(state.models) ? state.models : []).map(text).slice(0, 3),
    strategy: text(state.strategy),
    topN: number(state.topN),
    deadline: number(state.deadline),
    reasoning: state.reasoning === true,
    mode: state.mode === "judge" ? "judge" : "rank",
  };
}
