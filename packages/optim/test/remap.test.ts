/** A memory that goes along when ranks change: the steps after it are those of the numbers that stayed. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { ConfigError, hostArray, type HostArray, type Store, store, tensor } from "@adjoint/tensor";
import { adafactor, adamw, adamw8bit, type BoundOptimizer, lion, type Optimizer, type Origin, remapState, rmsprop } from "../src/index.ts";

const array = (shape: readonly number[], k: number): HostArray => { const data = hostArray("f32", shape.reduce((a, b) => a * b, 1)); for (let i = 0; i < data.length; i++) data[i] = (((i + 3) * (k + 5) * 7) % 33) / 16 - 1; return { dtype: "f32", shape, data }; };
/** Rows (axis 0) or columns of a matrix; null: zeros. */
function taken({ shape: [n, m], data }: HostArray, axis: 0 | 1, index: readonly (number | null)[]): HostArray {
  const shape = axis === 0 ? [index.length, m] : [n, index.length], out = hostArray("f32", shape[0] * shape[1]);
  for (let i = 0; i < shape[0]; i++) for (let j = 0; j < shape[1]; j++) { const from = index[axis === 0 ? i : j]; if (from !== null) out[i * shape[1] + j] = data[axis === 0 ? from * m + j : i * m + from]; }
  return { dtype: "f32", shape, data: out };
}
type Pair = { readonly lora_A: Store; readonly lora_B: Store };
const pair = (A: HostArray, B: HostArray): Pair => ({ lora_A: store(A), lora_B: store(B) });
const step = (o: BoundOptimizer<Pair>, A: HostArray, B: HostArray): void => { o.step({ lora_A: tensor(A.data, { shape: A.shape }), lora_B: tensor(B.data, { shape: B.shape }) }); };
const numbers = async (s: Store): Promise<number[]> => [...(await s.data())].map(Number);
const axisOf = (path: string): 0 | 1 => (path === "lora_B" ? 1 : 0);

describe("remapState", () => {
  it.each<[string, Optimizer]>([["adamw", adamw({ learningRate: 0.125 })], ["lion", lion({ learningRate: 0.125 })], ["rmsprop", rmsprop({ learningRate: 0.125 })]])("%s: numbers that stay go on as if nothing had happened, new ones begin", async (_, optimizer) => {
    await fc.assert(fc.asyncProperty(fc.integer({ min: 1, max: 3 }), fc.array(fc.option(fc.nat(3), { nil: null }), { minLength: 1, maxLength: 5 }), async (steps, places) => {
      const index = places.map((p, i) => (p === null || places.indexOf(p) < i ? null : p)), [A, B] = [array([4, 3], 1), array([5, 4], 2)], old = pair(A, B), from = optimizer.for(old);
      for (let t = 0; t < steps; t++) step(from, array([4, 3], 10 + t), array([5, 4], 20 + t));
      const hosts = { A: await old.lora_A.host(), B: await old.lora_B.host() }, next = pair(taken(hosts.A, 0, index), taken(hosts.B, 1, index)), to = optimizer.for(next);
      await remapState(from, to, (path): Origin => ({ axis: axisOf(path), index }));
      expect(to.counter.value).toBe(steps);
      const [gA, gB] = [array([4, 3], 30), array([5, 4], 31)];
      step(from, gA, gB);
      step(to, taken(gA, 0, index), taken(gB, 1, index));
      const want = { A: taken(await old.lora_A.host(), 0, index), B: taken(await old.lora_B.host(), 1, index) };
      expect(await numbers(next.lora_A)).toEqual([...want.A.data]);
      expect(await numbers(next.lora_B)).toEqual([...want.B.data]);
    }), { numRuns: 8 });
  });

  it("takes rows or columns of Adafactor's moments, and leaves alone what has no such axis", async () => {
    const optimizer = adafactor({ learningRate: 0.125, relativeStep: false, scaleParameter: false }), from = optimizer.for(pair(array([4, 3], 1), array([5, 4], 2)));
    step(from, array([4, 3], 3), array([5, 4], 4));
    const to = optimizer.for(pair(array([2, 3], 1), array([5, 2], 2)));
    await remapState(from, to, (path) => ({ axis: axisOf(path), index: [2, 0] }));
    const row = await numbers(from.states["exp_avg_sq_row"]["lora_A"]);
    expect(await numbers(to.states["exp_avg_sq_row"]["lora_A"])).toEqual([row[2], row[0]]);
    expect(await numbers(to.states["exp_avg_sq_col"]["lora_A"])).toEqual(await numbers(from.states["exp_avg_sq_col"]["lora_A"]));
    expect(await numbers(to.states["exp_avg_sq_row"]["lora_B"])).toEqual(await numbers(from.states["exp_avg_sq_row"]["lora_B"]));
  });

  it("refuses another optimizer, places that are not there, shapes without an origin, and 8-bit states", async () => {
    const made = (o: Optimizer, r: number): BoundOptimizer<Pair> => o.for(pair(array([r, 3], 1), array([5, r], 2))), same = adamw({ learningRate: 1 });
    await expect(remapState(made(same, 4), made(lion({ learningRate: 1 }), 2), () => null)).rejects.toThrow(/do not remember the same/);
    await expect(remapState(made(same, 4), made(same, 2), (path) => ({ axis: axisOf(path), index: [0, 4] }))).rejects.toThrow(/do not make \[2, 3\]/);
    await expect(remapState(made(same, 4), made(same, 2), () => null)).rejects.toThrow(ConfigError);
    const eight = adamw8bit({ learningRate: 1 }), large = (r: number): BoundOptimizer<Pair> => eight.for(pair(array([r, 2048], 1), array([2048, r], 2)));
    await expect(remapState(large(4), large(2), (path) => ({ axis: axisOf(path), index: [0, 1] }))).rejects.toThrow(/8 bits/);
  });
});
