import fc from "fast-check";
import { afterAll, describe, expect, it } from "vitest";
import { gradients } from "@adjoint/autograd";
import { type Context, Linear } from "@adjoint/nn";
import { adamw } from "@adjoint/optim";
import { clearPlans, compile, type DType, flatten, getDevice, memory, planOf, scalar, setDevice, ShapeError, Tensor, tensor } from "@adjoint/tensor";
import { wasm } from "@adjoint/wasm";
import { adapterSet, type AdapterSet, chooseForm, type NewLoraOptions, type RowForm } from "../src/index.ts";
import { grid, gridNet, type Net, restart } from "./net.ts";

const isTensor = (x: unknown): x is Tensor => x instanceof Tensor;
const numbers = async (t: Tensor | null): Promise<number[]> => (t === null ? [] : [...(await t.data())]);

const configs: readonly NewLoraOptions[] = [
  { r: 2, loraAlpha: 4, targetModules: ["embed", "up", "c_fc"] },
  { r: 3, loraAlpha: 3, useRslora: true, targetModules: ["up", "c_fc"] },
  { r: 1, loraAlpha: 2, targetModules: ["embed", "up"], rankPattern: { up: 2 } },
  { r: 2, loraAlpha: 2, useDora: true, targetModules: ["up"] },
];
async function setOf(dtype: DType, which: readonly number[], more: NewLoraOptions = {}): Promise<AdapterSet<Net>> {
  restart(7);
  const set = adapterSet(gridNet(dtype));
  for (const i of which) {
    const stores = [...set.add(`a${i}`, { ...configs[i], ...more, seed: i }).tensors()];
    for (const [, s] of stores) await s.data(); // DoRA's magnitude follows from the first factors
    for (const [key, s] of stores) if (!key.endsWith("vector")) s.set(await grid(s.shape, dtype).host());
  }
  return set;
}
const idsOf = (batch: number): Tensor => tensor(Int32Array.from({ length: batch * 3 }, (_, i) => (i * 7 + (i >> 1)) % 5), { shape: [batch, 3] });

/** Output and gradients of a batch against each row's adapter alone on the whole batch, its other rows left out of the loss. */
async function equalsAlone(set: AdapterSet<Net>, names: readonly string[], form: RowForm | undefined, tolerance: number, context: Context = {}): Promise<void> {
  const ids = idsOf(names.length), g = grid([names.length, 3, 3], set.base.up.weight.dtype);
  const mixed = set.rows(names, form === undefined ? {} : { form }), y = mixed.forward(ids, context), width = 9;
  const grads = flatten(gradients(y.mul(g).sum(), mixed.adapter), isTensor), ours = await numbers(y), found = new Map<string, number[]>();
  for (const [i, path] of grads.paths.entries()) found.set(path, await numbers(grads.leaves[i]));
  const close = (a: readonly number[], b: readonly number[], what: string): void => {
    expect(a.length).toBe(b.length);
    a.forEach((v, i) => { expect(Math.abs(v - b[i]), what).toBeLessThanOrEqual(tolerance * (1 + Math.abs(b[i]))); });
  };
  for (const name of new Set(names)) {
    const mine = names.map((n) => n === name), alone = set.with(name === "__base__" ? [] : name), z = alone.forward(ids, context), mask = tensor(Float32Array.from(mine, Number), { shape: [names.length, 1, 1] }).cast(g.dtype);
    const d = name === "__base__" ? null : flatten(gradients(z.mul(g).mul(mask).sum(), alone.adapter), isTensor), theirs = await numbers(z);
    mine.forEach((own, row) => { if (own) close(ours.slice(row * width, (row + 1) * width), theirs.slice(row * width, (row + 1) * width), `${name}, row ${row}`); });
    for (const [i, path] of d?.paths.entries() ?? []) close(found.get(`${name}.${path}`) ?? [], await numbers(d?.leaves[i] ?? null), path);
  }
  for (const [path, values] of found) if (!names.some((name) => path.startsWith(`${name}.`))) expect(values.every((v) => v === 0), path).toBe(true);
}

const assignment = (names: readonly string[]): fc.Arbitrary<string[]> => fc.array(fc.constantFrom(...names, "__base__"), { minLength: 1, maxLength: 5 });
const key = { seed: 3, stream: "dropout", step: scalar(2, "u32") };
const before = getDevice();
afterAll(() => { clearPlans(); setDevice(before); });

describe("a mixed batch", () => {
  it("equals each adapter alone, outputs and gradients, in both forms and for methods without one", async () => {
    await fc.assert(fc.asyncProperty(fc.constantFrom([0, 1, 2], [0], [1, 2, 3], [0, 1]).chain((which) => fc.tuple(fc.constant(which), assignment(which.map((i) => `a${i}`)))), fc.constantFrom<RowForm | undefined>("masked", "gathered", undefined), async ([which, names], form) => {
      await equalsAlone(await setOf("f64", which), names, form, 1e-11);
    }), { numRuns: 6 });
  });
  it("drops as each adapter alone drops: one probability, or one for each", async () => {
    const one = await setOf("f64", [0, 1, 3], { loraDropout: 0.5 });
    await equalsAlone(one, ["a0", "a1", "__base__", "a3"], undefined, 1e-11, { train: true, key });
    const two = await setOf("f64", [0, 1], { loraDropout: 0.25 });
    two.add("a2", { ...configs[2], loraDropout: 0.5, seed: 9 });
    await equalsAlone(two, ["a2", "a1", "__base__", "a0"], "gathered", 1e-11, { train: true, key });
    expect(() => two.rows(["a0"]).forward(idsOf(1), { train: true })).toThrow(/random numbers/);
  });
  it("equals each adapter alone on wasm, and makes no plan for another assignment", async () => {
    const device = setDevice(await wasm({ threads: 1 }));
    try {
      for (const form of ["masked", "gathered"] as const) {
        const set = await setOf("f32", [0, 1, 2]);
        await equalsAlone(set, ["a0", "a2", "__base__", "a1", "a0"], form, 2e-5);
        const step = (names: readonly string[]): Tensor[] => { const view = set.rows(names, { form }), y = view.forward(idsOf(4)); return [y, ...flatten(gradients(y.square().sum(), view.adapter), isTensor).leaves]; };
        const at = async (names: readonly string[]): Promise<number> => { for (const t of step(names)) await t.data(); return memory(device).plans; };
        const plans = await at(["a0", "a1", "a2", "a0"]);
        expect(await at(["a2", "__base__", "__base__", "a1"])).toBe(plans);
        const compiled = compile((ids: Tensor, index: Tensor) => set.rows(index, { form }).forward(ids));
        for (const names of [["a0", "a1", "a2", "a0"], ["a2", "__base__", "a1", "a1"]]) expect(await numbers(compiled(idsOf(4), set.index(names)))).toEqual(await numbers(set.rows(names, { form }).forward(idsOf(4))));
      }
    } finally { setDevice(before); }
  });
  it("refuses an index of a slot that there is not where the host knows it, compiled too, and gives NaN in that row alone where only the device does", async () => {
    const ids4 = idsOf(4), good = tensor(Int32Array.of(1, 2, 0, 2));
    for (const device of [before, await wasm({ threads: 1 })]) {
      setDevice(device);
      try {
        for (const [which, form] of [[[0, 1], "masked"], [[0, 1], "gathered"], [[1, 3], undefined]] as const) {
          const set = await setOf("f32", which), step = compile((ids: Tensor, index: Tensor) => set.rows(index, form === undefined ? {} : { form }).forward(ids)), want = await numbers(step(ids4, good));
          for (const bad of [3, -1]) {
            expect(() => set.rows(tensor(Int32Array.of(1, bad, 0, 2)))).toThrow(`names adapter ${bad}`);
            expect(() => step(ids4, tensor(Int32Array.of(1, bad, 0, 2)))).toThrow(`rows: id ${bad} at position 1 is outside [0, 3)`);
            // made by the step itself, so that no host ever sees it
            const hidden = compile((ids: Tensor, index: Tensor) => set.rows(index.add(tensor(Int32Array.of(0, bad - 2, 0, 0))), form === undefined ? {} : { form }).forward(ids)), got = await numbers(hidden(ids4, good));
            expect(got.slice(9, 18).every(Number.isNaN), `${form} ${bad}`).toBe(true);
            expect([...got.slice(0, 9), ...got.slice(18)]).toEqual([...want.slice(0, 9), ...want.slice(18)]);
          }
          expect(await numbers(step(ids4, good))).toEqual(want);
        }
      } finally { setDevice(before); }
    }
  });
  it("lets one optimizer train several adapters at once, each on its rows alone", async () => {
    const run = async (names: readonly string[]): Promise<number[]> => {
      const set = await setOf("f32", [0, 1]), optimizer = adamw({ learningRate: 0.02 }).for(set.trainable()), losses: number[] = [];
      for (let i = 0; i < 12; i++) {
        const view = set.rows(names), loss = view.forward(idsOf(names.length)).sub(0.5).square().sum();
        optimizer.step(gradients(loss, set.trainable()));
        losses.push(await loss.item());
      }
      const of = async (name: string): Promise<number[]> => (await Promise.all([...set.get(name).tensors().values()].map(numbers))).flat();
      return [losses[0], losses[11], ...(await of("a0"))];
    };
    const [first, last] = await run(["a0", "a1", "a1"]);
    expect(last).toBeLessThan(0.8 * first);
    const [, , ...alone] = await run(["a0", "__base__", "__base__"]), [, , ...beside] = await run(["a0", "a1", "a1"]);
    beside.forEach((v, i) => { expect(Math.abs(v - alone[i])).toBeLessThan(1e-5); });
  });
  it("finds the row of flattened activations, and refuses others", async () => {
    const set = await setOf("f64", [0, 1]), names = ["a1", "__base__", "a0"], x = grid([3, 2, 4], "f64"), rows = set.rows(names).moduleAdapter;
    const whole = await numbers(set.base.up.forward(x, { adapter: rows })), flat = x.reshape([6, 4]);
    expect(await numbers(set.base.up.forward(flat, { adapter: rows, flattened: { from: 0, per: 2 } }))).toEqual(whole);
    expect(await numbers(set.base.up.forward(flat.slice(0, 3, 6), { adapter: rows, flattened: { from: 3, per: 2 } }))).toEqual(whole.slice(18));
    expect(() => set.base.up.forward(flat, { adapter: rows })).toThrow(ShapeError);
    expect(() => set.rows(tensor([0, 1]))).toThrow(/i32/);
    expect(() => set.rows(tensor(Int32Array.of(0, 3)))).toThrow(/names adapter 3, and there are \d+/);
    expect(() => set.rows(["a9"])).toThrow(/no adapter "a9"/);
    expect(() => set.rows([])).toThrow(/no rows/);
  });
  it("writes nothing of the frozen weight's shape, and does the base's product once", () => {
    const [n, T, i, o] = [2, 3, 37, 29];
    for (const form of ["masked", "gathered"] as const) {
      const net = { up: new Linear(grid([o, i], "f32")) }, set = adapterSet(net), x = grid([n, T, i], "f32");
      set.add("a", { r: 2, targetModules: ["up"] });
      set.add("b", { r: 3, targetModules: ["up"] });
      const view = set.rows(["a", "b"], { form }), y = net.up.forward(x, view.context()), d = gradients(y.square().sum(), { x, adapter: view.adapter });
      const { spec } = planOf([y, ...flatten(d, isTensor).leaves]), full = spec.kernels.filter((k) => k.kind === "contract" && k.k * k.shape.reduce((a, b) => a * b, 1) === n * T * i * o);
      for (const b of spec.buffers) if (b.kind === "slot" || b.kind === "output") expect(b.length).not.toBe(i * o);
      expect(full.length).toBe(2); // y and dx
    }
  });
  it("takes the cheaper form", () => {
    expect([[16], [8, 8], [8, 4, 4], [8, 8, 1], [8, 8, 8, 8]].map(chooseForm)).toEqual(["masked", "masked", "masked", "gathered", "gathered"]);
  });
});
