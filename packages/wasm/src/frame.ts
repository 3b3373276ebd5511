/** The state of one kernel function while it is printed: arguments, cursors that follow views, and the formula printer. */
import { bytesOf, DeviceError } from "@adjoint/tensor";
import { Func, type Local, op, v } from "./assembler.ts";
import type { Dag, Level, Node } from "./dag.ts";
import { Converter } from "./element.ts";
import { Printer } from "./printer.ts";
import { Layout, type Operand, type Signature } from "./space.ts";
import { VectorMath } from "./vmath.ts";

/** Where a formula's leaves come from at one place of the code. */
export interface Leaves {
  load(view: number, n: Node): void;
  affine(index: number): void;
  stat?(index: number): void;
  acc?(): void;
}

export class Frame {
  readonly f: Func;
  readonly layout: Layout;
  readonly dag: Dag;
  readonly levels: readonly Level[];
  readonly convert: Converter;
  readonly math: VectorMath;
  readonly printer: Printer;
  /** start of each view (bytes), then of each affine (elements), before any axis is added */
  readonly bases: readonly Local[];
  /** cursors of the current line: views in bytes, then affines */
  readonly cursors: readonly Local[];
  readonly args: Local = 0;

  readonly #statLevel: Level;

  /** `params` counts the function's parameters, of which the first is the argument block; statistics are fixed along a line unless `statLevel` is 2. */
  constructor(name: string, params: number, signature: Signature, dag: Dag, exported = true, statLevel: Level = 1) {
    this.#statLevel = statLevel;
    this.f = new Func(name, params, exported);
    this.layout = new Layout(signature);
    this.dag = dag;
    this.levels = dag.levels((n) => this.#leafLevel(n));
    this.convert = new Converter(this.f);
    this.math = new VectorMath(this.f);
    this.printer = new Printer(this.f, dag, this.math, this.convert);
    const count = signature.views.length + signature.affines.length;
    this.bases = Array.from({ length: count }, () => this.f.i32());
    this.cursors = Array.from({ length: count }, () => this.f.i32());
    this.#prologue();
  }

  view(i: number): Operand { return this.layout.signature.views[i]; }
  /** pushes a word of the argument block */
  word(w: number): Func { return this.f.get(this.args).load(4 * w); }
  /** a local holding a word */
  wordLocal(w: number): Local { const l = this.f.i32(); this.word(w).set(l); return l; }
  strideWord(cursor: number, axis: number): number {
    const views = this.layout.signature.views.length;
    return cursor < views ? this.layout.view(cursor) + 2 + axis : this.layout.affine(cursor - views) + 1 + axis;
  }

  #leafLevel(n: Node): Level {
    const s = this.layout.signature;
    switch (n.fn) {
      case "uniform": return 0;
      case "load": return s.views[n.leaf].inner === 0 ? 1 : 2;
      case "affine": return s.affines[n.leaf] === 0 ? 1 : 2;
      case "stat": return this.#statLevel;
      default: return 2;
    }
  }

  #prologue(): void {
    const f = this.f, s = this.layout.signature;
    s.views.forEach((view, i) => {
      this.word(this.layout.view(i));
      if (view.at !== undefined) { this.#pushUniformAddress(view.at); f.load(); this.word(this.layout.view(i) + 1).i(op.mul).i(op.add); }
      f.set(this.bases[i]);
    });
    s.affines.forEach((_, i) => this.word(this.layout.affine(i)).set(this.bases[s.views.length + i]));
    // values that never change during the call
    const users = new Set<number>();
    for (const n of this.dag.nodes) if (this.levels[n.id] > 0) n.args.forEach((a) => users.add(a));
    const fixed = this.dag.nodes.filter((n) => this.levels[n.id] === 0 && n.fn !== "const" && (users.has(n.id) || !this.dag.nodes.some((m) => m.args.includes(n.id))));
    this.printer.evaluate(fixed.map((n) => n.id), (n) => this.#uniform(n));
  }
  #pushUniformAddress(i: number): void { this.word(this.layout.uniformBase); this.word(this.layout.uniform(i)).i(op.add); }
  #uniform(n: Node): void {
    this.#pushUniformAddress(n.leaf);
    this.f.vsplat(32);
    if (n.type === "bool") this.f.i32x4(0).simd(v.neI);
  }

  /** cursors = `from` + the position `linear` (row-major over `axes`); used `only` for the named cursors. */
  place(linear: Local, axes: readonly number[], from: readonly Local[] = this.bases, to: readonly Local[] = this.cursors): void {
    const f = this.f;
    to.forEach((c, j) => f.get(from[j]).set(c));
    if (axes.length === 0) return;
    const rest = f.i32(), index = f.i32();
    f.get(linear).set(rest);
    for (let k = axes.length - 1; k >= 0; k--) {
      if (k === 0) f.get(rest).set(index);
      else {
        f.get(rest);
        this.word(this.layout.size(axes[k])).i(op.remU).set(index);
        f.get(rest);
        this.word(this.layout.size(axes[k])).i(op.divU).set(rest);
      }
      to.forEach((c, j) => { f.get(c).get(index); this.word(this.strideWord(j, axes[k])).i(op.mul).i(op.add).set(c); });
    }
  }
  /** cursors move one step along an axis */
  step(axis: number, cursors: readonly Local[] = this.cursors): void {
    cursors.forEach((c, j) => { this.f.get(c); this.word(this.strideWord(j, axis)).i(op.add).set(c); });
  }

  /** Evaluates `roots` with the given leaves, bound until unbound. */
  evaluate(roots: readonly number[], leaves: Leaves): number[] {
    return this.printer.evaluate(roots, (n) => {
      switch (n.fn) {
        case "uniform": this.#uniform(n); return;
        case "load": leaves.load(n.leaf, n); return;
        case "affine": leaves.affine(n.leaf); return;
        case "stat": if (leaves.stat !== undefined) { leaves.stat(n.leaf); return; } break;
        case "acc": if (leaves.acc !== undefined) { leaves.acc(); return; } break;
        default:
      }
      throw new DeviceError(`wasm: a formula reads ${n.fn} ${n.leaf} where this kernel has none`, { op: n.fn });
    });
  }

  /** The nodes below `roots` that do not vary along a line but feed values that do (or are roots themselves). */
  frontier(roots: readonly number[], stop: (id: number) => boolean = () => false): number[] {
    const out = new Set<number>();
    const seen = new Set<number>();
    const go = (id: number): void => {
      if (seen.has(id) || this.printer.isBound(id) || stop(id)) return;
      seen.add(id);
      if (this.levels[id] < 2) { if (this.dag.nodes[id].fn !== "const" || roots.includes(id)) out.add(id); return; }
      this.dag.nodes[id].args.forEach(go);
    };
    roots.forEach(go);
    return [...out].sort((a, b) => a - b);
  }
  /** Leaves of values that do not vary along a line, at the current cursors. */
  lineLeaves(stats: readonly Local[] = []): Leaves {
    return {
      load: (i, n) => { this.f.get(this.cursors[i]); this.convert.splatRaw(this.view(i).dtype); this.convert.decode(this.view(i).dtype, n.type); },
      affine: (i) => { this.f.get(this.cursors[this.layout.signature.views.length + i]).simd(v.splatI); },
      stat: (i) => { this.f.get(stats[i]); },
    };
  }
  bytes(view: number): number { return bytesOf(this.view(view).dtype); }
}
