/** Syntax of the regular expressions that adapter files hold (Python `re`), parsed into a small tree; what cannot run in linear time is refused by name. */
import { ConfigError } from "@adjoint/tensor";

/** Set of characters: listed ranges and classes, perhaps complemented. */
export interface CharSet {
  readonly kind: "set";
  readonly negate: boolean;
  readonly ignoreCase: boolean;
  readonly ranges: readonly (readonly [number, number])[];
  readonly classes: readonly string[]; // d, D, w, W, s, S
}

export type Assertion = "lineStart" | "lineEnd" | "textStart" | "textEnd" | "endOrNewline" | "word" | "notWord";

export type Node =
  | CharSet
  | { readonly kind: "any"; readonly newline: boolean }
  | { readonly kind: "assert"; readonly what: Assertion }
  | { readonly kind: "group"; readonly index: number; readonly body: Node }
  | { readonly kind: "sequence"; readonly items: readonly Node[] }
  | { readonly kind: "choice"; readonly options: readonly Node[] }
  | { readonly kind: "repeat"; readonly body: Node; readonly min: number; readonly max: number; readonly lazy: boolean };

export interface Parsed {
  readonly root: Node;
  /** number of capturing groups */
  readonly groups: number;
  /** name -> group index, from 1 */
  readonly names: ReadonlyMap<string, number>;
}

/** Where a pattern was read, for messages. */
export interface PatternOrigin {
  readonly file?: string;
  readonly key?: string;
}

export const MAX_PATTERN = 10_000;
const MAX_DEPTH = 100;
const MAX_REPEAT = 1000;

interface Flags {
  readonly i: boolean;
  readonly m: boolean;
  readonly s: boolean;
}

const REFUSED_GROUPS: readonly (readonly [string, string])[] = [
  ["?=", "look-ahead (?=...)"],
  ["?!", "negative look-ahead (?!...)"],
  ["?<=", "look-behind (?<=...)"],
  ["?<!", "negative look-behind (?<!...)"],
  ["?P=", "back-reference (?P=...)"],
  ["?>", "atomic group (?>...)"],
  ["?(", "conditional (?(...)...)"],
];

const CONTROL: Readonly<Record<string, number>> = { n: 10, t: 9, r: 13, f: 12, v: 11, a: 7 };

/** Python has it, and no matcher in linear time does. */
export class UnsupportedPattern extends ConfigError {}

/** Parses Python's syntax; throws ConfigError with the position for bad syntax and by name for what is not supported. */
export function parsePattern(source: string, origin: PatternOrigin = {}): Parsed {
  const chars = Array.from(source);
  const names = new Map<string, number>();
  let at = 0;
  let groups = 0;

  const fail = (message: string, fix: string, kind: typeof ConfigError = ConfigError): never => {
    throw new kind(`regular expression ${JSON.stringify(source.slice(0, 200))}: ${message} at position ${at}`, {
      ...origin,
      value: source,
      fix,
    });
  };
  const refuse = (what: string): never =>
    fail(`${what} is not supported, because it cannot be matched in linear time`, "rewrite it with classes, groups, alternation and repetition, or list the module names", UnsupportedPattern);
  if (chars.length > MAX_PATTERN) fail(`longer than ${MAX_PATTERN} characters`, "list the module names instead");

  const looking = (text: string): boolean => text === chars.slice(at, at + text.length).join("");
  const eat = (text: string): boolean => {
    if (!looking(text)) return false;
    at += text.length;
    return true;
  };

  function number(): number | null {
    const start = at;
    while (at < chars.length && chars[at] >= "0" && chars[at] <= "9") at++;
    return at === start ? null : Number(chars.slice(start, at).join(""));
  }

  function name(): string {
    const start = at;
    while (at < chars.length && chars[at] !== ">") at++;
    const text = chars.slice(start, at).join("");
    if (!/^[A-Za-z_]\w*$/.test(text) || !eat(">")) fail("bad group name", "write (?P<name>...)");
    if (names.has(text)) fail(`group name ${text} is used twice`, "rename one of the groups");
    return text;
  }

  function hex(digits: number): number {
    const text = chars.slice(at, at + digits).join("");
    if (text.length < digits || !/^[0-9a-fA-F]+$/.test(text)) fail(`escape needs ${digits} hexadecimal digits`, "write \\xhh or \\uhhhh");
    at += digits;
    return Number.parseInt(text, 16);
  }

  /** After a backslash: a class letter, or the code point that is meant. */
  function escape(inSet: boolean): string | number {
    if (at >= chars.length) fail("trailing backslash", "write \\\\ for a backslash");
    const c = chars[at++];
    if ("dDwWsS".includes(c)) return c;
    if (c in CONTROL) return CONTROL[c];
    if (c === "x") return hex(2);
    if (c === "u") return hex(4);
    if (c === "U") return hex(8);
    if (c === "b" && inSet) return 8;
    if (c >= "1" && c <= "9" && !inSet) refuse(`back-reference \\${c}`);
    if (c >= "0" && c <= "9") fail("octal escape", "write \\xhh");
    if (/[A-Za-z]/.test(c)) fail(`unknown escape \\${c}`, "remove the backslash");
    return c.codePointAt(0)!;
  }

  const single = (code: number, f: Flags): CharSet => ({ kind: "set", negate: false, ignoreCase: f.i, ranges: [[code, code]], classes: [] });

  function set(f: Flags): CharSet {
    const negate = eat("^");
    const ranges: (readonly [number, number])[] = [];
    const classes: string[] = [];
    const member = (): string | number => (eat("\\") ? escape(true) : chars[at++].codePointAt(0)!);
    for (let first = true; ; first = false) {
      if (at >= chars.length) fail("unterminated character set", "close it with ]");
      if (!first && eat("]")) break;
      const low = member();
      if (typeof low === "string") {
        classes.push(low);
        continue;
      }
      if (looking("-") && at + 1 < chars.length && chars[at + 1] !== "]") {
        at++;
        const high = member();
        if (typeof high === "string" || high < low) fail("bad range in character set", "write it from low to high, and escape a literal -");
        else ranges.push([low, high]);
      } else ranges.push([low, low]);
    }
    return { kind: "set", negate, ignoreCase: f.i, ranges, classes };
  }

  /** Letters of (?i), (?i:...), (?s-i:...). */
  function flags(f: Flags): Flags {
    let next = { ...f };
    let on = true;
    for (; at < chars.length && chars[at] !== ")" && chars[at] !== ":"; at++) {
      const c = chars[at];
      if (c === "-") on = false;
      else if (c === "i" || c === "m" || c === "s") next = { ...next, [c]: on };
      else if (c !== "u") fail(`flag or group syntax (?${c} is not supported`, "only the flags i, m, s, (?:...) and (?P<name>...) are");
    }
    return next;
  }

  function group(f: Flags, depth: number): Node | null {
    for (const [text, label] of REFUSED_GROUPS) if (looking(text)) refuse(label);
    const close = (body: Node): Node => {
      if (!eat(")")) fail("missing )", "close the group");
      return body;
    };
    if (eat("?:")) return close(choice(f, depth + 1));
    if (eat("?#")) {
      while (at < chars.length && chars[at] !== ")") at++;
      if (!eat(")")) fail("missing )", "close the comment");
      return null;
    }
    if (looking("?P") && !looking("?P<")) fail("unknown group (?P", "write (?P<name>...)");
    if (looking("?<")) fail("unknown group (?<", "Python writes named groups (?P<name>...)");
    if (eat("?P<")) {
      const label = name();
      const index = ++groups;
      names.set(label, index);
      return { kind: "group", index, body: close(choice(f, depth + 1)) };
    }
    if (eat("?")) {
      const inner = flags(f);
      if (!eat(":")) fail("inline flags must stand at the start of the expression", "write (?i)... or (?i:...)");
      return close(choice(inner, depth + 1));
    }
    const index = ++groups;
    return { kind: "group", index, body: close(choice(f, depth + 1)) };
  }

  /** One item without its repetition; null for a comment. */
  function atom(f: Flags, depth: number): Node | null {
    const c = chars[at++];
    if (c === ".") return { kind: "any", newline: f.s };
    if (c === "^") return { kind: "assert", what: f.m ? "lineStart" : "textStart" };
    if (c === "$") return { kind: "assert", what: f.m ? "lineEnd" : "endOrNewline" };
    if (c === "[") return set(f);
    if (c === "(") return group(f, depth);
    if (c === "*" || c === "+" || c === "?") fail("nothing to repeat", `write \\${c} for the character`);
    if (c !== "\\") return single(c.codePointAt(0)!, f);
    if (eat("A")) return { kind: "assert", what: "textStart" };
    if (eat("Z") || eat("z")) return { kind: "assert", what: "textEnd" };
    if (eat("b")) return { kind: "assert", what: "word" };
    if (eat("B")) return { kind: "assert", what: "notWord" };
    const meant = escape(false);
    return typeof meant === "string" ? { kind: "set", negate: false, ignoreCase: false, ranges: [], classes: [meant] } : single(meant, f);
  }

  /** [min, max] of a repetition, or null where none follows; `{` that is no repetition is a character. */
  function repetition(): readonly [number, number] | null {
    if (eat("*")) return [0, Infinity];
    if (eat("+")) return [1, Infinity];
    if (eat("?")) return [0, 1];
    const start = at;
    if (!eat("{")) return null;
    const low = number();
    const comma = eat(",");
    const high = comma ? number() : low;
    if (!eat("}") || (low === null && !comma)) {
      at = start;
      return null;
    }
    const range = [low ?? 0, high ?? Infinity] as const;
    if (range[1] < range[0]) fail("repetition {m,n} with m > n", "swap the two numbers");
    if (range[0] > MAX_REPEAT || (range[1] !== Infinity && range[1] > MAX_REPEAT)) fail(`repetition above ${MAX_REPEAT}`, "use * or +");
    return range;
  }

  function sequence(f: Flags, depth: number): Node {
    const items: Node[] = [];
    while (at < chars.length && chars[at] !== "|" && chars[at] !== ")") {
      const bare = chars[at] !== "(";
      const body = atom(f, depth);
      if (body === null) continue;
      const range = repetition();
      if (range === null) {
        items.push(body);
        continue;
      }
      if (bare && body.kind === "assert") fail("nothing to repeat", "an anchor cannot be repeated");
      const lazy = eat("?");
      if (looking("+")) refuse("possessive repetition");
      if (repetition() !== null) fail("multiple repeat", "group the inner repetition: (?:a*)*");
      items.push({ kind: "repeat", body, min: range[0], max: range[1], lazy });
    }
    return items.length === 1 ? items[0] : { kind: "sequence", items };
  }

  function choice(f: Flags, depth: number): Node {
    if (depth > MAX_DEPTH) fail(`groups nested deeper than ${MAX_DEPTH}`, "simplify the expression");
    const options = [sequence(f, depth)];
    while (eat("|")) options.push(sequence(f, depth));
    return options.length === 1 ? options[0] : { kind: "choice", options };
  }

  let global: Flags = { i: false, m: false, s: false };
  while (/^\(\?[imsu]+\)/.test(chars.slice(at, at + 8).join(""))) {
    at += 2;
    global = flags(global);
    at++;
  }
  const root = choice(global, 0);
  if (at < chars.length) fail("unbalanced )", "write \\) for the character");
  return { root, groups, names };
}
