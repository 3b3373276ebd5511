/** Prints formulas as WGSL, one value or four at a time: every distinct node becomes one `let`, literals and leaves are named once. */
import { DeviceError, type Expr, type ExprType, type Intrinsic } from "@adjoint/tensor";
import { floatText, intrinsic, namesOf, type Names, type Width } from "./intrinsics.ts";
import type { Shader } from "./shader.ts";

/** Text of the leaves at the current point; of the printer's width where values differ along it, else a scalar is widened by `splat`. */
export interface Leaves {
  /** the kernel's list: leaf `uniform` i is number `uniforms[i]` of the plan */
  readonly uniforms: readonly number[];
  load?(i: number, type: ExprType): string;
  affine?(i: number, type: ExprType): string;
  stat?(i: number, type: ExprType): string;
  acc?(type: ExprType): string;
}
export interface PrinterOptions { readonly width: Width; readonly prefix: string }

/** The WGSL type of a formula's type. */
export function wgslType(type: ExprType, width: Width): string {
  const n = namesOf(width);
  return type === "float" ? n.f : type === "i32" ? n.i : type === "u32" ? n.u : n.b;
}

const number2: Partial<Record<Intrinsic, string>> = { add: "+", sub: "-", mul: "*", lt: "<", le: "<=", gt: ">", ge: ">=", eq: "==", ne: "!=" };
const integer2: Partial<Record<Intrinsic, string>> = { ...number2, and: "&", or: "|", xor: "^" };
const infix: Record<ExprType, Partial<Record<Intrinsic, string>>> = {
  float: { ...number2, div: "/" }, i32: integer2, u32: integer2,
  bool: { and: "&", or: "|", xor: "!=", min: "&", max: "|", eq: "==", ne: "!=" },
};
const builtin: Partial<Record<Intrinsic, string>> = { abs: "abs", min: "min", max: "max", sqrt: "sqrt", rsqrt: "inverseSqrt", floor: "floor" };

export class Printer {
  readonly lines: string[] = [];
  readonly #shader: Shader;
  readonly #leaves: Leaves;
  readonly #width: Width;
  readonly #prefix: string;
  readonly #n: Names;
  readonly #values = new Map<Expr, string>();
  readonly #names = new Map<string, string>();

  constructor(shader: Shader, leaves: Leaves, { width, prefix }: PrinterOptions) {
    this.#shader = shader; this.#leaves = leaves; this.#width = width; this.#prefix = prefix; this.#n = namesOf(width);
  }

  /** The name or literal of a formula's value, whose lines now precede. */
  value(e: Expr): string {
    const known = this.#values.get(e);
    if (known !== undefined) return known;
    const text = this.#text(e);
    this.#values.set(e, text);
    return text;
  }
  /** Binds a text, once. */
  let(text: string): string {
    let name = this.#names.get(text);
    if (name === undefined) {
      name = `${this.#prefix}${this.#names.size}`;
      this.#names.set(text, name);
      this.lines.push(`let ${name} = ${text};`);
    }
    return name;
  }
  /** A scalar of a type at the printer's width. */
  splat(text: string, type: ExprType): string { return this.#width === 1 ? text : `${wgslType(type, 4)}(${text})`; }

  #text(e: Expr): string {
    const { uniforms } = this.#leaves;
    switch (e.fn) {
      case "const": return this.#const(e.leaf, e.type);
      case "uniform": {
        const word = this.#uniform(uniforms[e.leaf], e.type);
        return this.let(this.splat(word, e.type));
      }
      case "load": return this.let(this.#leaf(e, this.#leaves.load?.(e.leaf, e.type)));
      case "affine": return this.let(this.#leaf(e, this.#leaves.affine?.(e.leaf, e.type)));
      case "stat": return this.let(this.#leaf(e, this.#leaves.stat?.(e.leaf, e.type)));
      case "acc": return this.let(this.#leaf(e, this.#leaves.acc?.(e.type)));
      default: return this.let(this.#call(e, e.fn));
    }
  }
  readonly #uniformWords = new Map<string, string>();
  #uniform(position: number, type: ExprType): string {
    const key = `${position}${type}`;
    let word = this.#uniformWords.get(key);
    if (word === undefined) {
      word = type === "bool" ? `(${this.#shader.number(position, "u32")} != 0u)` : this.#shader.number(position, type === "float" ? "f32" : type);
      this.#uniformWords.set(key, word);
    }
    return word;
  }
  #leaf(e: Expr, text: string | undefined): string {
    if (text === undefined) throw new DeviceError(`webgpu: this kernel has no leaf ${e.fn}`, { op: e.fn });
    return text;
  }
  #const(x: number, type: ExprType): string {
    switch (type) {
      case "bool": return this.splat(x !== 0 ? "true" : "false", type);
      case "u32": return this.splat(`${x >>> 0}u`, type);
      case "i32": return this.splat((x | 0) === -2147483648 ? "bitcast<i32>(0x80000000u)" : (x | 0) < 0 ? `(${x | 0}i)` : `${x | 0}i`, type);
      // infinities and NaN are no constants in WGSL
      case "float": return Number.isFinite(Math.fround(x)) ? this.splat(floatText(x), type) : this.let(this.splat(this.#shader.param(x, "f32"), type));
      default: return type satisfies never;
    }
  }
  #lib(fn: string): string { return intrinsic(this.#shader, fn, this.#width); }

  #call(e: Expr, fn: Intrinsic): string {
    const n = this.#n, type = e.args[0].type;
    // operations on literals alone are left to run time: the compiler refuses overflow and the like in constants
    const constant = e.args.every((a) => a.fn === "const");
    const [a, b, c] = e.args.map((x) => (constant ? this.let(this.value(x)) : this.value(x)));
    switch (fn) {
      case "select": return `select(${c}, ${b}, ${a})`;
      case "shl": case "shr": return this.#shift(e, fn, a, b);
      case "not": return type === "bool" ? `!${a}` : `~${a}`;
      case "neg": return type === "u32" ? `${n.u}(0u) - ${a}` : `-${a}`;
      case "div":
        if (type === "i32" || type === "u32") return `${this.#lib(type === "i32" ? "divI" : "divU")}(${a}, ${b})`;
        break;
      case "eq": case "ne":
        // the same value on both sides asks for NaN
        if (type === "float" && e.args[0] === e.args[1]) return `${fn === "eq" ? "!" : ""}${this.#lib("isNaN")}(${a})`;
        break;
      case "exp": case "log": case "tanh": case "erf": return `${this.#lib(fn)}(${a})`;
      case "sin": return `${this.#lib("turn")}(${a}, 0)`;
      case "cos": return `${this.#lib("turn")}(${a}, 1)`;
      case "pow": return this.#power(e, a, b);
      case "toF": return convert(this.#shader, this.#width, type, "float", a);
      case "toI": return convert(this.#shader, this.#width, type, "i32", a);
      case "toU": return convert(this.#shader, this.#width, type, "u32", a);
      case "toB": return convert(this.#shader, this.#width, type, "bool", a);
      case "roundF16": return `${this.#lib("widenF16")}(${this.let(`${this.#lib("bitsF16")}(${a})`)})`;
      case "roundBf16": return `bitcast<${n.f}>(${this.let(`${this.#lib("bitsBf16")}(${a})`)} << ${n.u}(16u))`;
      default:
    }
    const sign = infix[type][fn];
    if (sign !== undefined && e.args.length === 2) return `${a} ${sign} ${b}`;
    if (type === "bool") {
      switch (fn) {
        case "lt": return `!${a} & ${b}`;
        case "le": return `!${a} | ${b}`;
        case "gt": return `${a} & !${b}`;
        case "ge": return `${a} | !${b}`;
        default:
      }
    }
    const name = builtin[fn];
    if (name === undefined || type === "bool") throw new DeviceError(`webgpu: no WGSL for ${fn} of ${type}`, { op: fn });
    return fn === "abs" && type === "u32" ? a : `${name}(${[a, b].filter((x) => x !== undefined).join(", ")})`;
  }
  /** Amounts count modulo 32; `>>` of i32 keeps the sign. */
  #shift(e: Expr, fn: "shl" | "shr", a: string, b: string): string {
    const n = this.#n, sign = fn === "shl" ? "<<" : ">>", by = e.args[1];
    if (by.fn === "const") return `${a} ${sign} ${this.splat(`${by.leaf & 31}u`, "u32")}`;
    return `${a} ${sign} (${by.type === "u32" ? b : `bitcast<${n.u}>(${b})`} & ${n.u}(31u))`;
  }
  /** Small whole exponents are products. */
  #power(e: Expr, x: string, y: string): string {
    const by = e.args[1], k = by.fn === "const" ? by.leaf : NaN;
    if (k === 1) return x;
    if (k === 2) return `${x} * ${x}`;
    if (k === 3) return `${x} * (${x} * ${x})`;
    if (k === -1) return `1.0f / ${x}`;
    return `${this.#lib("pow")}(${x}, ${y})`;
  }
}

/** A value of type `from` as type `to`, by the rules of toF, toI, toU and toB. */
export function convert(shader: Shader, width: Width, from: ExprType, to: ExprType, x: string): string {
  const n = namesOf(width);
  if (from === to) return x;
  switch (to) {
    case "float": return from === "bool" ? `select(${n.f}(0.0f), ${n.f}(1.0f), ${x})` : `${n.f}(${x})`;
    case "i32": return from === "bool" ? `select(${n.i}(0), ${n.i}(1), ${x})` : from === "u32" ? `bitcast<${n.i}>(${x})` : `${intrinsic(shader, "toI", width)}(${x})`;
    case "u32": return from === "bool" ? `select(${n.u}(0u), ${n.u}(1u), ${x})` : from === "i32" ? `bitcast<${n.u}>(${x})` : `${intrinsic(shader, "toU", width)}(${x})`;
    case "bool": return from === "float" ? `((bitcast<${n.u}>(${x}) << ${n.u}(1u)) != ${n.u}(0u))` : `(${x} != ${from === "i32" ? n.i : n.u}(0))`;
    default: return to satisfies never;
  }
}
