// How far orders agree. Pure functions.

/**
 * Kendall's tau of two orders, over the passages that both have.
 * Returns `{tau, same, pairs, count}`: `same` of `pairs` stand in the same order in both. `tau` is null for less than two.
 */
export function kendall(first, second) {
  const place = new Map(second.map((passage, rank) => [passage, rank]));
  const places = first.filter((passage) => place.has(passage)).map((passage) => place.get(passage));
  const pairs = (places.length * (places.length - 1)) / 2;
  const same = pairs - inversions(places);
  return { tau: pairs ? (2 * same) / pairs - 1 : null, same, pairs, count: places.length };
}

/** Pairs that stand the other way round, by merge sort: n log n, for lists of thousands. */
function inversions(places) {
  if (places.length < 2) return 0;
  const middle = places.length >> 1;
  const left = places.slice(0, middle);
  const right = places.slice(middle);
  let found = inversions(left) + inversions(right);
  let [a, b] = [0, 0];
  for (let at = 0; at < places.length; at += 1) {
    if (b === right.length || (a < left.length && left[a] <= right[b])) places[at] = left[a++];
    else {
      places[at] = right[b++];
      found += left.length - a;
    }
  }
  return found;
}
