/** Keys and values of the positions so far: stores of constant shape, written at a position that is data. */
import { Store, type Tensor, assign, hostArray, sizeOf, update, zeroStore } from "@adjoint/tensor";
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
  /** The same contents with twice the room; copied on the host, so that no plan is made for it. */
  async doubled(): Promise<KVCache> {
    const grow = async (old: Store): Promise<Store> => {
      const [B, H, S, d] = old.shape, shape = [B, H, 2 * S, d], from = await old.host(), data = hostArray(old.dtype, sizeOf(shape));
      for (let row = 0; row < B * H; row++) data.set(from.data.subarray(row * S * d, (row + 1) * S * d), row * 2 * S * d);
      return new Store({ dtype: old.dtype, shape, data }, old.name);
    };
    return new KVCache(this.batch, 2 * this.capacity, await Promise.all(this.keys.map(grow)), await Promise.all(this.values.map(grow)));
  }
}
