/** Tensors that stay a recipe: what they are made of is in stores, and they never keep numbers of their own. */
import { internal } from "./state.ts";
import { type Store, readOp } from "./store.ts";
import { type Numbers, Tensor, hasNumbers } from "./tensor.ts";
import type { HostArray } from "./dtype.ts";

/**
 * A value that is computed from stores wherever it is used, as a weight out of its codes is. Like a store it stands for its
 * present value in a formula; reading it makes numbers once and leaves it the recipe that it was.
 */
export class Derived extends Tensor {
  readonly #stores: readonly Store[];
  readonly #recipe: () => Tensor;
  #current: Tensor | null = null;
  #read: readonly Tensor[] = [];
  constructor(stores: readonly Store[], recipe: () => Tensor, name = "") {
    const first = internal(recipe);
    super(readOp, [], null, first.shape, first.dtype);
    this.#stores = stores;
    this.#recipe = recipe;
    this.name = name;
  }
  /** the recipe in use: another one once a store has changed or this one has been computed */
  get current(): Tensor {
    const t = this.#current;
    if (t && !hasNumbers(t) && !t.alias && !t.computed && this.#stores.every((s, i) => s.current === this.#read[i])) return t;
    this.#read = this.#stores.map((s) => s.current);
    return (this.#current = this.#fresh());
  }
  #fresh(): Tensor { return internal(this.#recipe).named(this.name); }
  override async data(): Promise<Numbers> { return this.#fresh().data(); }
  override dataSync(): Numbers { return this.#fresh().dataSync(); }
  override async host(): Promise<HostArray> { return this.#fresh().host(); }
}

/**
 * A tensor that is `recipe()` wherever it is used; `stores` are what the recipe reads.
 * @example const w = store(tensor([1, 2])), twice = derived([w], () => w.mul(2)); await twice.data(); // [2, 4]
 */
export const derived = (stores: readonly Store[], recipe: () => Tensor, name = ""): Derived => new Derived(stores, recipe, name);
