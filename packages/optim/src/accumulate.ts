/** Gradients of several micro-batches added up, so that their mean is the gradient of the one big batch. */
import { ConfigError, ShapeError, Store, Tensor, assign, flatten, flushAll, internal, mapTree, sameShape, show, structureChanged, zeroStore } from "@adjoint/tensor";
import type { GradientsOf } from "./optimizer.ts";
import { isHalfType } from "./rounding.ts";

/** What an accumulation amounts to. */
export interface Accumulated<T> {
  /** Σ g / Σ count: ready for `optimizer.step`; null for leaves that no micro-batch reached */
  readonly gradients: GradientsOf<T>;
  /** Σ loss / Σ count; shape [] */
  readonly loss: Tensor;
  /** Σ count, f32, shape [] */
  readonly count: Tensor;
}

const isTensor = (x: unknown): x is Tensor => x instanceof Tensor;

/**
 * Sums over micro-batches: gradients of the summed loss, the summed loss, and how many tokens were predicted.
 * None of it belongs to a checkpoint: a run that was cut in the middle starts the step again (`reset`).
 */
export class Accumulator<T> {
  readonly #tree: T;
  readonly #sums: ReadonlyMap<string, Store>;
  readonly #count: Store = zeroStore([], "f32", "accumulate.count");
  readonly #loss: Store = zeroStore([], "f32", "accumulate.loss");
  readonly #reached: Set<string> = new Set();
  #recorded = false;

  constructor(tree: T) {
    this.#tree = tree;
    const { paths, leaves } = flatten(tree, isTensor);
    this.#sums = new Map(leaves.flatMap((p, i) => (p instanceof Store ? [[paths[i], zeroStore(p.shape, isHalfType(p.dtype) ? "f32" : p.dtype, `accumulate.${paths[i]}`)]] : [])));
    if (this.#sums.size === 0) throw new ConfigError("accumulate: the tree holds no store, hence no gradients to add", { op: "accumulate", fix: "make its parameters stores: store(tensor)" });
  }

  /**
   * Records one micro-batch: sum ← sum + g, count ← count + n. `gradients` are those of the SUMMED loss, `count` the number
   * of predicted tokens (crossEntropySum gives both). The first micro-batch replaces what was there, so nothing is zeroed.
   */
  add(gradients: GradientsOf<T>, count: Tensor, loss: Tensor | null = null): void {
    const { paths, leaves } = flatten(gradients, isTensor), given = new Map(leaves.map((g, i) => [paths[i], g])), before = this.#reached.size;
    for (const [path, g] of given) {
      const sum = this.#sums.get(path);
      if (!sum) continue;
      if (!sameShape(sum.shape, g.shape)) throw new ShapeError(`accumulate: the gradient of ${path} has shape ${show(g.shape)}, the parameter ${show(sum.shape)}`, { op: "accumulate", key: path, shapes: [sum.shape, g.shape] });
      this.#reached.add(path);
    }
    if (this.#recorded && this.#reached.size > before) structureChanged();     // earlier recordings do not know these leaves
    this.#recorded = true;
    if (count.size !== 1) throw new ShapeError(`accumulate: the count has shape ${show(count.shape)}, not one number`, { op: "accumulate", key: "count", shapes: [count.shape] });
    if (![...given.keys()].some((path) => this.#sums.has(path))) throw new ConfigError("accumulate: no parameter has a gradient", { op: "accumulate", fix: "give gradients of the tree that the accumulator was made for" });
    const stores: Store[] = [this.#count, this.#loss], values: Tensor[] = [];
    internal(() => {
      const begun = this.#count.gt(0);
      const onto = (sum: Store, x: Tensor): Tensor => begun.where(sum.add(x), x);
      values.push(this.#count.add(count.reshape([]).cast("f32")), loss ? onto(this.#loss, loss.reshape([]).cast("f32")) : begun.where(this.#loss, 0));
      for (const path of this.#reached) {
        const g = given.get(path), sum = this.#sums.get(path)!;
        stores.push(sum);
        values.push(g ? onto(sum, g.cast(sum.dtype)) : begun.where(sum, 0));
      }
    });
    assign(stores, values);
  }

  /** Records the end: the means over all predicted tokens; the next `add` starts anew. Call it once, with the optimizer's step. */
  finish(): Accumulated<T> {
    if (this.#reached.size === 0) throw new ConfigError("accumulate: finish before any add", { op: "accumulate", fix: "add a micro-batch first" });
    const count = this.#count.add(0), loss = this.#loss.div(count.gt(0).where(count, 1));   // the user's own: a flush brings them along
    const gradients = internal(() => {
      const n = this.#count.gt(0).where(this.#count, 1);      // weights of tokens may add up to less than 1; without any there is nothing to divide
      return mapTree(this.#tree, isTensor, (_: Tensor, path): Tensor | null => {
        const sum = this.#reached.has(path) ? this.#sums.get(path) : undefined;
        return sum ? sum.div(n.cast(sum.dtype)) : null;
      });
    });
    assign([this.#count], [internal(() => this.#count.mul(0))]);
    return { gradients, loss, count };
  }

  /** Forgets a half-finished accumulation, at once. */
  reset(): void {
    flushAll();
    this.#count.set({ dtype: "f32", shape: [], data: new Float32Array(1) });
  }
}

/** Stores that add up gradients for the leaves of a tree. @example const sums = accumulate(tuned.adapter); */
export const accumulate = <T>(tree: T): Accumulator<T> => new Accumulator(tree);
