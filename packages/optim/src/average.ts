/** Exponential moving averages of weights. */
import { ConfigError, type Counter, type HostArray, type MapLeaves, type Store, Tensor, assign, counter, internal, live, mapTree, zeroStore } from "@adjoint/tensor";
import { fraction, knownKeys } from "./check.ts";
import { trained } from "./optimizer.ts";
import { isHalfType } from "./rounding.ts";
import { loadState, saveState } from "./state.ts";
import { lerp } from "./transforms.ts";

/** Options of `averageWeights`. */
export interface AverageOptions {
  /** share of the old average, in [0, 1); default 0.999 */
  readonly decay?: number;
}
const isTensor = (x: unknown): x is Tensor => x instanceof Tensor;

/** An average of the stores of a tree, in f32 where they are half; before the first update a copy of them. */
export class WeightAverage<T> {
  readonly name = "averageWeights";
  readonly counter: Counter = counter(0, "step");
  readonly params: Readonly<Record<string, Store>>;
  readonly updates: Readonly<Record<string, Counter>> = {};
  readonly states: Readonly<Record<string, Readonly<Record<string, Store>>>>;
  readonly #tree: T;
  readonly #decay: number;

  constructor(tree: T, decay: number) {
    const { params } = trained(tree);
    if (Object.keys(params).length === 0) throw new ConfigError("averageWeights: the tree holds no store", { op: "averageWeights", fix: "make its parameters stores: store(tensor)" });
    this.#tree = tree; this.#decay = decay; this.params = params;
    this.states = { average: Object.fromEntries(Object.entries(params).map(([path, p]) => [path, zeroStore(p.shape, isHalfType(p.dtype) ? "f32" : p.dtype, `average.${path}`).usedAs("optimizer")])) };
    const paths = Object.keys(params);                                 // a copy to begin with, as torch's AveragedModel
    assign(paths.map((path) => this.states.average[path]), internal(() => paths.map((path) => params[path].cast(this.states.average[path].dtype))));
  }

  /** Records avg ← lerp(avg, p, 1 - decay), the first time avg ← p (torch's `get_ema_avg_fn`). Call it after the optimizer's step, in the same recording. */
  update(): void {
    const stores = Object.values(this.states.average);
    assign(stores, internal(() => Object.entries(this.params).map(([path, p]) => {
      const avg = this.states.average[path], now = p.cast(avg.dtype);
      return live(this.counter, (n) => (n === 0 ? 1 : 0)).gt(0).where(now, lerp(avg, now, 1 - this.#decay));
    })));
    this.counter.tick();
  }

  /** The tree with averages in the place of its stores: a model that can be evaluated. */
  get average(): MapLeaves<T, Tensor, Tensor> {
    const of = new Map<Tensor, Store>(Object.entries(this.params).map(([path, p]) => [p, this.states.average[path]]));
    return mapTree(this.#tree, isTensor, (t: Tensor): Tensor => of.get(t) ?? t);
  }

  /** Records the exchange of weights and averages: evaluate, then swap back. Half-precision weights take the average rounded. */
  swap(): void {
    const pairs = Object.entries(this.params).map(([path, p]): [Store, Store] => [p, this.states.average[path]]);
    assign(pairs.flat(), internal(() => pairs.flatMap(([p, avg]) => [avg.cast(p.dtype), p.cast(avg.dtype)])));
  }

  /** Snapshot: `average.<path>` and `step`. */
  state(): Promise<Record<string, HostArray>> { return saveState(this); }
  /** Takes a snapshot up again, strictly. */
  load(state: Readonly<Record<string, HostArray>>): void { loadState(this, state); }
}

/**
 * An exponential moving average of a tree's weights: avg ← decay · avg + (1 - decay) p, once a step.
 * @example const ema = averageWeights(model, { decay: 0.999 }); optimizer.step(g); ema.update();
 */
export function averageWeights<T>(tree: T, options: AverageOptions = {}): WeightAverage<T> {
  knownKeys("averageWeights", options, ["decay"]);
  return new WeightAverage(tree, fraction("averageWeights", "decay", options.decay ?? 0.999));
}
