/** Byte-pair encoding learned from word counts: merge the most frequent pair, ties to the smallest ids, until the vocabulary is full. */

/** Queue entry: a pair, its count when queued, and the words where it was new at that time. */
interface Candidate {
  readonly pair: number;
  readonly words: number[];
  count: number;
}

/** Pairs (a, b) as one number; ids stay below 2^21, so that pairs are exact and sort like (a, b). */
const WIDTH = 2 ** 21;

/** Max-heap by count, ties to the smaller pair: the order of Hugging Face's BpeTrainer. */
class CandidateHeap {
  private readonly items: Candidate[] = [];

  private static before(a: Candidate, b: Candidate): boolean {
    return a.count > b.count || (a.count === b.count && a.pair < b.pair);
  }

  push(item: Candidate): void {
    const { items } = this;
    let i = items.push(item) - 1;
    while (i > 0) {
      const parent = (i - 1) >> 1;
      if (!CandidateHeap.before(item, items[parent])) break;
      items[i] = items[parent];
      i = parent;
    }
    items[i] = item;
  }

  pop(): Candidate | undefined {
    const { items } = this;
    const top = items[0];
    const last = items.pop();
    if (last === undefined || items.length === 0) return last;
    let i = 0;
    for (;;) {
      let child = 2 * i + 1;
      if (child >= items.length) break;
      if (child + 1 < items.length && CandidateHeap.before(items[child + 1], items[child])) child++;
      if (!CandidateHeap.before(items[child], last)) break;
      items[i] = items[child];
      i = child;
    }
    items[i] = last;
    return top;
  }
}

/** A word as its current symbols, and how often the texts hold it. */
export interface CountedWord {
  readonly symbols: number[];
  readonly count: number;
}

/** What a trainer returns: tokens by id, and merges as pairs of tokens in the order in which an encoder applies them. */
export interface Merges {
  readonly tokens: string[];
  readonly merges: (readonly [string, string])[];
}

/**
 * Learns merges from counted words.
 *
 * Counts are kept incrementally: replacing (a, b) in a word changes only the counts of the neighbouring pairs, and a stale count in the
 * queue is corrected when it reaches the top. `tokens` are the starting symbols (special tokens and alphabet); a token that two splits
 * spell alike keeps one id, and a pair that is merged twice keeps its last rank.
 *
 * @param words counted words; their symbols are changed in place
 * @param tokens starting vocabulary, ids in order
 * @param vocabSize number of tokens at which to stop
 * @param minFrequency smallest count that is still merged
 * Source: Sennrich, Haddow, Birch 2016 (arXiv 1508.07909); order of ties as in `tokenizers` 0.23.
 */
export function learnMerges(words: readonly CountedWord[], tokens: readonly string[], vocabSize: number, minFrequency: number): Merges {
  const vocabulary = [...tokens];
  const ids = new Map(vocabulary.map((token, id) => [token, id]));
  const counts = new Map<number, number>();
  let fresh = new Map<number, number[]>();
  const heap = new CandidateHeap();
  const ranks = new Map<number, number>();

  const count = (pair: number, change: number): void => void counts.set(pair, (counts.get(pair) ?? 0) + change);
  const seen = (pair: number, word: number): void => {
    const list = fresh.get(pair);
    if (list === undefined) fresh.set(pair, [word]);
    else if (list[list.length - 1] !== word) list.push(word);
  };
  const enqueue = (): void => {
    for (const [pair, list] of fresh) {
      const n = counts.get(pair) ?? 0;
      if (n > 0) heap.push({ pair, words: list, count: n });
    }
    fresh = new Map();
  };

  for (let w = 0; w < words.length; w++) {
    const { symbols, count: n } = words[w];
    for (let i = 0; i + 1 < symbols.length; i++) {
      const pair = symbols[i] * WIDTH + symbols[i + 1];
      count(pair, n);
      seen(pair, w);
    }
  }
  enqueue();

  let rank = 0;
  while (vocabulary.length < vocabSize) {
    const top = heap.pop();
    if (top === undefined) break;
    const now = counts.get(top.pair) ?? 0;
    if (top.count !== now) {
      top.count = now;
      heap.push(top);
      continue;
    }
    if (top.count < 1 || top.count < minFrequency) break;
    const a = Math.floor(top.pair / WIDTH);
    const b = top.pair % WIDTH;
    const token = vocabulary[a] + vocabulary[b];
    let id = ids.get(token);
    if (id === undefined) {
      id = vocabulary.push(token) - 1;
      ids.set(token, id);
    }
    ranks.set(top.pair, rank++);
    for (const w of top.words) {
      const { symbols, count: n } = words[w];
      let write = 0;
      for (let read = 0; read < symbols.length; read++) {
        if (symbols[read] !== a || read + 1 >= symbols.length || symbols[read + 1] !== b) {
          symbols[write++] = symbols[read];
          continue;
        }
        if (write > 0) {
          count(symbols[write - 1] * WIDTH + a, -n);
          count(symbols[write - 1] * WIDTH + id, n);
          seen(symbols[write - 1] * WIDTH + id, w);
        }
        symbols[write++] = id;
        read++;
        if (read + 1 < symbols.length) {
          count(b * WIDTH + symbols[read + 1], -n);
          count(id * WIDTH + symbols[read + 1], n);
          seen(id * WIDTH + symbols[read + 1], w);
        }
      }
      symbols.length = write;
    }
    enqueue();
  }
  const merges = [...ranks].sort((p, q) => p[1] - q[1]).map(([pair]) => [vocabulary[Math.floor(pair / WIDTH)], vocabulary[pair % WIDTH]] as const);
  return { tokens: vocabulary, merges };
}
