/**
 * Regular expressions from files, matched in time proportional to text times pattern (Pike's virtual machine), so that no file can hang the process.
 *
 * All alternatives advance together, one character at a time, in order of preference; a state is entered once per position.
 * Source: R. Cox, "Regular Expression Matching: the Virtual Machine Approach" (2009); K. Thompson (1968).
 */
import { ConfigError } from "@adjoint/tensor";
import { type Assertion, type CharSet, type Node, parsePattern, type PatternOrigin } from "./pattern-syntax.ts";

export type { PatternOrigin } from "./pattern-syntax.ts";

/** One match: text.slice of the matched code points, and the captured groups (index 0 is the whole match). */
export interface PatternMatch {
  readonly start: number;
  readonly end: number;
  readonly groups: readonly (string | undefined)[];
  readonly named: ReadonlyMap<string, string | undefined>;
}

/** A compiled expression with the three questions of Python's `re`. */
export interface Pattern {
  readonly source: string;
  /** number of instructions; a match takes at most `size` times the text's length steps */
  readonly size: number;
  /** whole text matches: `re.fullmatch` */
  fullMatch(text: string): PatternMatch | null;
  /** a prefix matches: `re.match` */
  match(text: string): PatternMatch | null;
}

type Instruction =
  | { readonly op: "set"; readonly set: CharSet }
  | { readonly op: "any"; readonly newline: boolean }
  | { readonly op: "assert"; readonly what: Assertion }
  | { readonly op: "save"; readonly slot: number }
  | { readonly op: "split"; first: number; second: number }
  | { readonly op: "jump"; to: number }
  | { readonly op: "accept" };

/** Most instructions that an expression may need once {m,n} is written out. */
export const MAX_INSTRUCTIONS = 10_000;

const isWord = (c: string): boolean => /[\p{L}\p{N}_]/u.test(c);
const CLASSES: Readonly<Record<string, (c: string) => boolean>> = {
  d: (c) => /\p{Nd}/u.test(c),
  w: isWord,
  s: (c) => /[\s\x1c-\x1f\x85]/u.test(c) && c !== "\ufeff",
};

function inSet(set: CharSet, c: string): boolean {
  const code = c.codePointAt(0)!;
  for (const [low, high] of set.ranges) if (code >= low && code <= high) return true;
  for (const name of set.classes) {
    const lower = name.toLowerCase();
    if (CLASSES[lower](c) === (name === lower)) return true;
  }
  return false;
}

function accepts(set: CharSet, c: string): boolean {
  const found = inSet(set, c) || (set.ignoreCase && (inSet(set, c.toLowerCase()) || inSet(set, c.toUpperCase())));
  return found !== set.negate;
}

function holds(what: Assertion, chars: readonly string[], at: number): boolean {
  const end = chars.length;
  switch (what) {
    case "textStart":
      return at === 0;
    case "textEnd":
      return at === end;
    case "endOrNewline":
      return at === end || (at === end - 1 && chars[at] === "\n");
    case "lineStart":
      return at === 0 || chars[at - 1] === "\n";
    case "lineEnd":
      return at === end || chars[at] === "\n";
    case "word":
    case "notWord": {
      const edge = (at > 0 && isWord(chars[at - 1])) !== (at < end && isWord(chars[at]));
      return edge === (what === "word");
    }
    default:
      return what satisfies never;
  }
}

/** Writes the tree as instructions; every visit counts, so that even empty bodies cannot multiply without bound. */
function assemble(root: Node, tooBig: () => never): Instruction[] {
  const program: Instruction[] = [];
  let visits = 0;

  function emit(node: Node): void {
    if (++visits > MAX_INSTRUCTIONS || program.length > MAX_INSTRUCTIONS) tooBig();
    switch (node.kind) {
      case "set":
        program.push({ op: "set", set: node });
        return;
      case "any":
        program.push({ op: "any", newline: node.newline });
        return;
      case "assert":
        program.push({ op: "assert", what: node.what });
        return;
      case "group":
        program.push({ op: "save", slot: 2 * node.index });
        emit(node.body);
        program.push({ op: "save", slot: 2 * node.index + 1 });
        return;
      case "sequence":
        for (const item of node.items) emit(item);
        return;
      case "choice": {
        const ends: { op: "jump"; to: number }[] = [];
        for (const [i, option] of node.options.entries()) {
          if (i === node.options.length - 1) {
            emit(option);
            break;
          }
          const split: Instruction = { op: "split", first: program.length + 1, second: 0 };
          program.push(split);
          emit(option);
          const jump = { op: "jump" as const, to: 0 };
          ends.push(jump);
          program.push(jump);
          split.second = program.length;
        }
        for (const jump of ends) jump.to = program.length;
        return;
      }
      case "repeat":
        repeat(node.body, node.min, node.max, node.lazy);
        return;
      default:
        node satisfies never;
    }
  }

  /** split that prefers the body when greedy; returns how to set its exit */
  function fork(lazy: boolean): (exit: number) => void {
    const here = program.length;
    const split: Instruction = { op: "split", first: here + 1, second: here + 1 };
    program.push(split);
    return (exit) => {
      if (lazy) split.first = exit;
      else split.second = exit;
    };
  }

  function repeat(body: Node, min: number, max: number, lazy: boolean): void {
    for (let i = 0; i < min; i++) emit(body);
    if (max === Infinity) {
      const top = program.length;
      const leave = fork(lazy);
      emit(body);
      program.push({ op: "jump", to: top });
      leave(program.length);
      return;
    }
    const exits: ((exit: number) => void)[] = [];
    for (let i = min; i < max; i++) {
      exits.push(fork(lazy));
      emit(body);
    }
    for (const leave of exits) leave(program.length);
  }

  emit(root);
  program.push({ op: "accept" });
  return program;
}

interface Thread {
  readonly pc: number;
  /** start and end of every group, -1 where unset */
  readonly saved: readonly number[];
}

/** Runs the program from the start of `chars`; `whole` accepts only at the end of the text. */
function run(program: readonly Instruction[], slots: number, chars: readonly string[], whole: boolean): readonly number[] | null {
  const seen = new Int32Array(program.length).fill(-1); // position at which a state was last entered
  let best: readonly number[] | null = null;

  /** States reachable without a character, in order of preference. */
  function follow(into: Thread[], start: Thread, at: number): void {
    const stack: Thread[] = [start];
    for (let t = stack.pop(); t !== undefined; t = stack.pop()) {
      if (seen[t.pc] === at) continue;
      seen[t.pc] = at;
      const i = program[t.pc];
      if (i.op === "jump") stack.push({ pc: i.to, saved: t.saved });
      else if (i.op === "split") stack.push({ pc: i.second, saved: t.saved }, { pc: i.first, saved: t.saved });
      else if (i.op === "save") stack.push({ pc: t.pc + 1, saved: t.saved.with(i.slot, at) });
      else if (i.op !== "assert") into.push(t);
      else if (holds(i.what, chars, at)) stack.push({ pc: t.pc + 1, saved: t.saved });
    }
  }

  let threads: Thread[] = [];
  follow(threads, { pc: 0, saved: new Array<number>(slots).fill(-1) }, 0);
  for (let at = 0; threads.length > 0; at++) {
    const next: Thread[] = [];
    for (const t of threads) {
      const i = program[t.pc];
      if (i.op === "accept") {
        if (whole && at < chars.length) continue;
        best = t.saved.with(0, 0).with(1, at);
        break; // what follows is less preferred
      }
      if (at === chars.length) continue;
      const c = chars[at];
      if ((i.op === "set" && accepts(i.set, c)) || (i.op === "any" && (i.newline || c !== "\n"))) follow(next, { pc: t.pc + 1, saved: t.saved }, at + 1);
    }
    threads = next;
  }
  return best;
}

/**
 * Compiles an expression in Python's syntax: literals, classes, `\d \w \s`, anchors, groups (also named), alternation,
 * greedy and lazy repetition, `(?i)`. Throws ConfigError naming look-around, back-references, possessive repetition,
 * atomic groups and conditionals, and for an expression that needs more than MAX_INSTRUCTIONS.
 */
export function compilePattern(source: string, origin: PatternOrigin = {}): Pattern {
  const { root, groups, names } = parsePattern(source, origin);
  const slots = 2 * (groups + 1);
  const program = assemble(root, () => {
    throw new ConfigError(`regular expression ${JSON.stringify(source.slice(0, 200))} grows beyond ${MAX_INSTRUCTIONS} instructions`, {
      ...origin,
      value: source,
      fix: "use smaller repetition counts, or list the module names",
    });
  });
  const ask = (text: string, whole: boolean): PatternMatch | null => {
    const chars = Array.from(text);
    const saved = run(program, slots, chars, whole);
    if (saved === null) return null;
    const found = Array.from({ length: groups + 1 }, (_, g) =>
      saved[2 * g] < 0 || saved[2 * g + 1] < 0 ? undefined : chars.slice(saved[2 * g], saved[2 * g + 1]).join(""),
    );
    return { start: 0, end: saved[1], groups: found, named: new Map(Array.from(names, ([name, g]) => [name, found[g]])) };
  };
  return { source, size: program.length, fullMatch: (text) => ask(text, true), match: (text) => ask(text, false) };
}
