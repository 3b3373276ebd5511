/** Keys and values of the positions so far: stores of constant shape, written at a position that is data. */
import { type Store, type Tensor, assign, hostArray, update, zeroStore } from "@adjoint/tensor";
import type { ModelConfig } from "./config.ts";

/** A store of keys and one of values a layer, each [batch, kvHeads, capacity, head]. */
export class KVCache {
  readonly batch: number;
  readonly capacity: number;
  readonly keys: readonly Store[];
  readonly values: readonly Store[];
  private constructor(batch: number, capacity: number, keys: readonly Store[], values: readonly Store[]) {
    this.batch = batch; this.capacity = capacity; this.keys = keys; this.values = values;
  }
  static empty({ numHiddenLayers, numKeyValueHeads, headDim }: ModelConfig, batch: number, capacity: number): KVCache {
    const side = (name: string): Store[] => Array.from({ length: numHiddenLayers }, (_, i) => zeroStore([batch, numKeyValueHeads, capacity, headDim], "f32", `cache.${i}.${name}`));
    return new KVCache(batch, capacity, side("keys"), side("values"));
  }
  /** Records the writing of new keys and values [batch, kvHeads, T, head] of a layer; returns all of that layer, as they are then. */
  extend(layer: number, k: Tensor, v: Tensor, position: Tensor): readonly [Tensor, Tensor] {
    const stores = [this.keys[layer], this.values[layer]];
    assign(stores, [update(stores[0], k, position, 2), update(stores[1], v, position, 2)]);
    return [stores[0].current, stores[1].current];
  }
  /** Puts this cache's contents into a larger one; copied on the host, so that no plan is made for it. */
  async copyInto(larger: KVCache): Promise<void> {
    const grow = async (from: Store, to: Store): Promise<void> => {
      const [B, H, S, d] = from.shape, R = to.shape[2], { data: old } = await from.host(), data = hostArray(to.dtype, to.size);
      for (let row = 0; row < B * H; row++) data.set(old.subarray(row * S * d, (row + 1) * S * d), row * R * d);
      to.set({ dtype: to.dtype, shape: to.shape, data });
    };
    await Promise.all([...this.keys.map((k, i) => grow(k, larger.keys[i])), ...this.values.map((v, i) => grow(v, larger.values[i]))]);
  }
}

/** Caches that nobody uses now, by capacity: device memory is reused, not left to the collector. What they still hold is never seen. */
const spare = new WeakMap<ModelConfig, Map<number, KVCache>>();
/** A cache of one row for a model of this config; its contents mean nothing yet. */
export function takeCache(config: ModelConfig, capacity: number): KVCache {
  const found = spare.get(config)?.get(capacity);
  spare.get(config)?.delete(capacity);
  return found ?? KVCache.empty(config, 1, capacity);
}
/** Gives a cache back whose numbers are all finite. */
export function giveCache(config: ModelConfig, cache: KVCache): void {
  const pool = spare.get(config) ?? new Map<number, KVCache>();
  spare.set(config, pool.set(cache.capacity, cache));
}
