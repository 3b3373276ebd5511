/** From formulas to closures: every distinct node becomes one step that fills a block of values, arguments first. */
import type { Affine, View } from "../backend.ts";
import type { TypedArray } from "../dtype.ts";
import { walk, type Expr } from "../expr.ts";
import { loopOf, type Lane } from "./intrinsics.ts";
import { addresses, BLOCK, load, save } from "./space.ts";

/** What the formulas of one kernel may refer to during one run. */
export interface Frame {
  /** memory of the plan's buffers, by buffer number */
  readonly memory: readonly TypedArray[];
  /** the kernel's own uniforms */
  readonly uniforms: readonly number[];
}
/** The leaves of a kernel. */
export interface Leaves {
  readonly shape: readonly number[];
  readonly loads: readonly View[];
  readonly affines: readonly Affine[];
}
/** Evaluates its formulas at points first ≤ p < first + n (n ≤ BLOCK) of the kernel's shape; lanes hold until the next call. */
export interface Program {
  /** one lane a formula */
  readonly results: readonly Lane[];
  /** lanes of `stat` leaves by number, and of `acc`, filled by the kernel before it evaluates */
  readonly stats: Lane[];
  readonly acc: Lane;
  evaluate(frame: Frame, first: number, n: number): void;
}
type Step = (frame: Frame, first: number, n: number) => void;

/** Where a view begins, once the numbers of the run are known. */
export const startOf = (view: View, uniforms: readonly number[]): number =>
  view.offset + (view.at === undefined ? 0 : uniforms[view.at.uniform] * view.at.stride);

/** Compiles formulas that share nodes; each distinct node is computed once a block. */
export function compile(formulas: readonly Expr[], { shape, loads, affines }: Leaves): Program {
  const lanes = new Map<Expr, Lane>(), steps: Step[] = [], stats: Lane[] = [];
  const acc = new Float64Array(BLOCK), at = new Int32Array(BLOCK), none = new Float64Array(0);
  const lane = (e: Expr): Lane => lanes.get(e) ?? none;

  walk(formulas, (e) => {
    const out = e.fn === "acc" ? acc : e.fn === "stat" ? (stats[e.leaf] ??= new Float64Array(BLOCK)) : new Float64Array(BLOCK);
    lanes.set(e, out);
    const step = stepOf(e, out);
    if (step) steps.push(step);
  });

  function stepOf(e: Expr, out: Lane): Step | undefined {
    switch (e.fn) {
      case "const": out.fill(e.type === "bool" ? (e.leaf ? 1 : 0) : e.type === "u32" ? e.leaf >>> 0 : e.type === "i32" ? e.leaf | 0 : e.leaf); return undefined;
      case "acc": case "stat": return undefined;
      case "uniform": return (frame, _, n) => { out.fill(frame.uniforms[e.leaf], 0, n); };
      case "affine": {
        const { offset, strides } = affines[e.leaf];
        return (_, first, n) => { addresses(shape, strides, offset, first, n, out); };
      }
      case "load": {
        const view = loads[e.leaf];
        return (frame, first, n) => {
          addresses(shape, view.strides, startOf(view, frame.uniforms), first, n, at);
          load(frame.memory[view.buffer], view.dtype, at, n, out);
        };
      }
      default: {
        const [a, b, c] = e.args.map(lane), loop = loopOf(e.fn, e.args[e.fn === "select" ? 1 : 0].type);
        return (_, __, n) => { loop(out, n, a, b, c); };
      }
    }
  }

  return {
    results: formulas.map(lane), stats, acc,
    evaluate(frame, first, n) { for (const step of steps) step(frame, first, n); },
  };
}

/** Writes a lane of values through a view. */
export function store(frame: Frame, shape: readonly number[], view: View, value: Expr, first: number, n: number, values: Lane): void {
  addresses(shape, view.strides, startOf(view, frame.uniforms), first, n, scratch);
  save(frame.memory[view.buffer], view.dtype, value.type, scratch, n, values);
}
const scratch = new Int32Array(BLOCK);
