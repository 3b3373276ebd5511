/** A scalar formula, written once; every backend prints or interprets the same tree. */

/** Value types inside a formula. "float" is f32 on devices and f64 on the reference backend. */
export type ExprType = "float" | "i32" | "u32" | "bool";

/** Leaves: operand `load`, plan number `uniform`, integer `affine` index, row `stat`istic, matmul result `acc`, literal `const`. */
export type Leaf = "load" | "uniform" | "affine" | "stat" | "acc" | "const";

/** Names of the functions a formula may use. */
export type Intrinsic =
  | "add" | "sub" | "mul" | "div" | "neg" | "abs" | "min" | "max"
  | "sqrt" | "rsqrt" | "exp" | "log" | "tanh" | "sin" | "cos" | "erf" | "floor" | "pow"
  | "lt" | "le" | "gt" | "ge" | "eq" | "ne"
  | "and" | "or" | "xor" | "not" | "shl" | "shr" | "select"
  | "toF" | "toI" | "toU" | "toB" | "roundF16" | "roundBf16";

type Rule = (args: readonly ExprType[]) => ExprType;
const same: Rule = (a) => a[0];
const bool: Rule = () => "bool";
const to = (t: ExprType): Rule => () => t;

/**
 * The only table that a new target language must cover. Integer arithmetic wraps; `shr` is arithmetic for i32 and
 * logical for u32; `toI`/`toU` truncate and saturate a float (NaN gives 0) and reinterpret integers; `roundF16` and
 * `roundBf16` round a float to nearest even and widen it again; `toF` of a bool is 1 or 0.
 */
export const intrinsics: Readonly<Record<Intrinsic, Rule>> = {
  add: same, sub: same, mul: same, div: same, neg: same, abs: same, min: same, max: same,
  sqrt: same, rsqrt: same, exp: same, log: same, tanh: same, sin: same, cos: same, erf: same, floor: same, pow: same,
  lt: bool, le: bool, gt: bool, ge: bool, eq: bool, ne: bool,
  and: same, or: same, xor: same, not: same, shl: same, shr: same,
  select: (a) => a[1],
  toF: to("float"), toI: to("i32"), toU: to("u32"), toB: bool,
  roundF16: same, roundBf16: same,
};

/** An Expr, or a literal that adopts the other operand's type. */
export type Num = Expr | number;

/** One node of a formula; immutable, shared freely (printers bind a shared node once). */
export class Expr {
  readonly fn: Intrinsic | Leaf;
  readonly args: readonly Expr[];
  readonly type: ExprType;
  /** the leaf's position in the kernel's list, or the literal's value */
  readonly leaf: number;
  constructor(fn: Intrinsic | Leaf, args: readonly Expr[], type: ExprType, leaf = 0) {
    this.fn = fn; this.args = args; this.type = type; this.leaf = leaf;
  }
  add(b: Num): Expr { return call("add", this, b); }
  sub(b: Num): Expr { return call("sub", this, b); }
  mul(b: Num): Expr { return call("mul", this, b); }
  div(b: Num): Expr { return call("div", this, b); }
  min(b: Num): Expr { return call("min", this, b); }
  max(b: Num): Expr { return call("max", this, b); }
  pow(b: Num): Expr { return call("pow", this, b); }
  lt(b: Num): Expr { return call("lt", this, b); }
  le(b: Num): Expr { return call("le", this, b); }
  gt(b: Num): Expr { return call("gt", this, b); }
  ge(b: Num): Expr { return call("ge", this, b); }
  eq(b: Num): Expr { return call("eq", this, b); }
  ne(b: Num): Expr { return call("ne", this, b); }
  and(b: Num): Expr { return call("and", this, b); }
  or(b: Num): Expr { return call("or", this, b); }
  xor(b: Num): Expr { return call("xor", this, b); }
  shl(b: Num): Expr { return call("shl", this, b); }
  shr(b: Num): Expr { return call("shr", this, b); }
  neg(): Expr { return call("neg", this); }
  abs(): Expr { return call("abs", this); }
  sqrt(): Expr { return call("sqrt", this); }
  rsqrt(): Expr { return call("rsqrt", this); }
  exp(): Expr { return call("exp", this); }
  log(): Expr { return call("log", this); }
  tanh(): Expr { return call("tanh", this); }
  sin(): Expr { return call("sin", this); }
  cos(): Expr { return call("cos", this); }
  erf(): Expr { return call("erf", this); }
  floor(): Expr { return call("floor", this); }
  not(): Expr { return call("not", this); }
  toF(): Expr { return this.type === "float" ? this : call("toF", this); }
  toI(): Expr { return this.type === "i32" ? this : call("toI", this); }
  toU(): Expr { return this.type === "u32" ? this : call("toU", this); }
  toB(): Expr { return this.type === "bool" ? this : call("toB", this); }
  roundF16(): Expr { return call("roundF16", this); }
  roundBf16(): Expr { return call("roundBf16", this); }
  /** this (a bool) ? a : b */
  select(a: Num, b: Num): Expr { return call("select", this, a, typeof b === "number" && a instanceof Expr ? literal(b, a.type) : b); }
}

/** A literal of the given type. */
export const literal = (value: number, type: ExprType = "float"): Expr => new Expr("const", [], type, value);
/** A leaf of a kernel. */
export const leaf = (kind: Exclude<Leaf, "const">, position: number, type: ExprType): Expr => new Expr(kind, [], type, position);

function call(fn: Intrinsic, ...xs: Num[]): Expr {
  const at = fn === "select" ? 1 : 0;
  const typed = xs.find((x, i): x is Expr => i >= at && x instanceof Expr);
  const type = typed?.type ?? "float";
  const args = xs.map((x) => (typeof x === "number" ? literal(x, type) : x));
  return new Expr(fn, args, intrinsics[fn](args.map((a) => a.type)));
}

/** Visits every distinct node once, arguments before users. */
export function walk(roots: readonly Expr[], visit: (e: Expr) => void): void {
  const seen = new Set<Expr>();
  const go = (e: Expr): void => {
    if (seen.has(e)) return;
    seen.add(e);
    e.args.forEach(go);
    visit(e);
  };
  roots.forEach(go);
}

/** A readable, canonical text of a formula: the kernel key of every backend, and what `explain` prints. */
export function showExpr(e: Expr): string {
  switch (e.fn) {
    case "const": return e.type === "float" ? `${e.leaf}` : `${e.leaf}${e.type[0]}`;
    case "load": return `x${e.leaf}`;
    case "uniform": return `u${e.leaf}`;
    case "affine": return `i${e.leaf}`;
    case "stat": return `r${e.leaf}`;
    case "acc": return "acc";
    default: return `${e.fn}(${e.args.map(showExpr).join(",")})`;
  }
}

/** A canonical text in which shared nodes are numbered, so that its length is linear in the DAG. */
export function keyOf(roots: readonly Expr[]): string {
  const names = new Map<Expr, string>(), text = new Map<string, string>(), lines: string[] = [];
  walk(roots, (e) => {
    const line = e.args.length === 0 ? `${e.fn}${e.leaf}${e.type[0]}` : `${e.fn}${e.type[0]}(${e.args.map((a) => names.get(a)).join()})`;
    let name = text.get(line);
    if (name === undefined) { name = `$${lines.length}`; text.set(line, name); lines.push(line); }
    names.set(e, name);
  });
  return `${lines.join(";")}>${roots.map((r) => names.get(r)).join()}`;
}
