/** Prints formulas as SIMD code: every node once, values that do not vary before the loop. */
import { DeviceError } from "@adjoint/tensor";
import { type Func, type Local, op, v } from "./assembler.ts";
import type { Dag, Node } from "./dag.ts";
import type { Converter } from "./element.ts";
import type { VectorMath } from "./vmath.ts";

/** Pushes the value of a leaf (load, affine, uniform, stat, acc). */
export type LeafPrinter = (n: Node) => void;

const float2 = { add: v.addF, sub: v.subF, mul: v.mulF, div: v.divF, min: v.pminF, max: v.pmaxF, lt: v.ltF, le: v.leF, gt: v.gtF, ge: v.geF, eq: v.eqF, ne: v.neF } as const;
const int2 = { add: v.addI, sub: v.subI, mul: v.mulI, min: v.minS, max: v.maxS, lt: v.ltS, le: v.leS, gt: v.gtS, ge: v.geS, eq: v.eqI, ne: v.neI, and: v.and, or: v.or, xor: v.xor } as const;
const uint2 = { ...int2, min: v.minU, max: v.maxU, lt: v.ltU, le: v.leU, gt: v.gtU, ge: v.geU } as const;
const bool2 = { min: v.and, max: v.or, eq: v.eqI, ne: v.xor, and: v.and, or: v.or, xor: v.xor } as const;
const binary: Record<string, Readonly<Record<string, number>>> = { float: float2, i32: int2, u32: uint2, bool: bool2 };

export class Printer {
  readonly f: Func;
  readonly #dag: Dag;
  readonly #math: VectorMath;
  readonly #convert: Converter;
  readonly #bound = new Map<number, Local>();
  readonly #home = new Map<number, Local>();

  constructor(f: Func, dag: Dag, math: VectorMath, convert: Converter) { this.f = f; this.#dag = dag; this.#math = math; this.#convert = convert; }

  isBound(id: number): boolean { return this.#bound.has(id); }
  /** Takes the value on the stack as that of a node, from here until `unbind`. */
  bind(id: number): Local {
    let local = this.#home.get(id);
    if (local === undefined) { local = this.f.v128(); this.#home.set(id, local); }
    this.f.set(local);
    this.#bound.set(id, local);
    return local;
  }
  unbind(ids: Iterable<number>): void { for (const id of ids) this.#bound.delete(id); }

  /** Pushes the values of `roots`, in order, into locals: nodes used more than once are computed once. Returns what was bound. */
  evaluate(roots: readonly number[], leaf: LeafPrinter): number[] {
    const stop = (id: number): boolean => this.#bound.has(id);
    const nodes = this.#dag.reach(roots, stop);
    const uses = this.#dag.uses(nodes, roots, stop);
    const made: number[] = [];
    const push = (id: number): void => {
      const local = this.#bound.get(id);
      if (local !== undefined) { this.f.get(local); return; }
      const n = this.#dag.nodes[id];
      this.#node(n, push, leaf);
      if ((uses.get(id) ?? 0) > 1 && n.fn !== "const") { this.f.get(this.bind(id)); made.push(id); }
    };
    for (const r of roots) {
      if (this.#bound.has(r)) continue;
      push(r);
      if (this.#bound.has(r)) this.f.i(op.drop); else { this.bind(r); made.push(r); }
    }
    return made;
  }
  /** The local of a bound node. */
  local(id: number): Local {
    const l = this.#bound.get(id);
    if (l === undefined) throw new DeviceError(`wasm printer: node ${id} is not bound`);
    return l;
  }

  #node(n: Node, push: (id: number) => void, leaf: LeafPrinter): void {
    const f = this.f;
    if (n.fn === "const") {
      if (n.type === "float") f.f32x4(n.leaf); else if (n.type === "bool") f.i32x4(n.leaf !== 0 ? -1 : 0); else f.i32x4(n.leaf | 0);
      return;
    }
    if (n.args.length === 0) { leaf(n); return; }
    const table = binary[n.from];
    switch (n.fn) {
      case "select": push(n.args[1]); push(n.args[2]); push(n.args[0]); f.simd(v.bitselect); return;
      case "shl": case "shr": this.#shift(n, push); return;
      case "div":
        if (n.type !== "float") { this.#divide(n, push); return; }
        break;
      case "rsqrt": f.f32x4(1); push(n.args[0]); f.simd(v.sqrtF).simd(v.divF); return;
      default:
    }
    for (const a of n.args) push(a);
    const code = table[n.fn];
    if (n.args.length === 2 && code !== undefined) { f.simd(code); return; }
    switch (n.fn) {
      case "neg": f.simd(n.type === "float" ? v.negF : v.negI); return;
      case "abs": if (n.type === "float") f.simd(v.absF); else if (n.type === "i32") f.simd(v.absI); return;
      case "not": f.simd(v.not); return;
      case "sqrt": f.simd(v.sqrtF); return;
      case "floor": f.simd(v.floorF); return;
      case "exp": this.#math.exp(); return;
      case "log": this.#math.log(); return;
      case "tanh": this.#math.tanh(); return;
      case "sin": this.#math.sin(0); return;
      case "cos": this.#math.sin(1); return;
      case "erf": this.#math.erf(); return;
      case "pow": this.#math.pow(); return;
      case "toF": this.#convert.convert(n.from, "float"); return;
      case "toI": this.#convert.convert(n.from, "i32"); return;
      case "toU": this.#convert.convert(n.from, "u32"); return;
      case "toB": this.#convert.convert(n.from, "bool"); return;
      case "roundF16": this.#convert.roundF16(); return;
      case "roundBf16": this.#convert.roundBf16(); return;
      default: throw new DeviceError(`wasm: no instruction for ${n.fn} of ${n.from}`, { op: n.fn });
    }
  }

  /** Shifts by a literal are one instruction; by data, lane after lane (amounts modulo 32). */
  #shift(n: Node, push: (id: number) => void): void {
    const f = this.f, amount = this.#dag.nodes[n.args[1]];
    const code = n.fn === "shl" ? v.shlI : n.type === "u32" ? v.shrU : v.shrS;
    if (amount.fn === "const") { push(n.args[0]); f.const(amount.leaf).simd(code); return; }
    this.#lanes(n, push, n.fn === "shl" ? op.shl : n.type === "u32" ? op.shrU : op.shrS, false);
  }
  #divide(n: Node, push: (id: number) => void): void { this.#lanes(n, push, n.type === "u32" ? op.divU : op.divS, true); }

  /** A scalar instruction lane after lane; a guarded division gives 0 for a zero divisor and wraps for -1. */
  #lanes(n: Node, push: (id: number) => void, code: number, division: boolean): void {
    const f = this.f;
    this.#math.with(3, (a, b, r) => {
      push(n.args[0]); f.set(a);
      push(n.args[1]); f.set(b);
      if (division) {
        // x / -1 = -x without the trap of INT_MIN / -1; x / 0 = 0
        if (n.type === "i32") f.get(a).simd(v.negI).get(a).get(b).i32x4(-1).simd(v.eqI).simd(v.bitselect).set(a);
        if (n.type === "i32") f.i32x4(1).get(b).get(b).i32x4(-1).simd(v.eqI).simd(v.bitselect).set(b);
        f.get(a).get(b).i32x4(0).simd(v.neI).simd(v.and).set(a);
        f.i32x4(1).get(b).get(b).i32x4(0).simd(v.eqI).simd(v.bitselect).set(b);
      }
      f.get(a).set(r);
      for (let k = 0; k < 4; k++) f.get(r).get(a).extractI(k).get(b).extractI(k).i(code).replaceI(k).set(r);
      f.get(r);
    });
  }
}
