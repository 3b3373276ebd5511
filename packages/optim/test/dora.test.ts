/** Every optimizer on a DoRA adapter: three steps are finite and go down, the magnitude moves, and the state comes back. */
import { setDevice, store, tensor, type Tensor } from "@adjoint/tensor";
import { gradients } from "@adjoint/autograd";
import { lora, type Tuned } from "@adjoint/lora";
import { Linear } from "@adjoint/nn";
import { describe, expect, it } from "vitest";
import { type Optimizer, optimizer, optimizerEntries } from "@adjoint/optim";
import { devices } from "./golden.ts";
import { Grid } from "./long.ts";

const needed: Readonly<Record<string, object>> = { lorafa: { scaling: 1.5 }, lorapro: { scaling: 1.5 }, adam_8bit: { min8bitSize: 1 }, adamw_8bit: { min8bitSize: 1 }, lion_8bit: { min8bitSize: 1 }, rmsprop_bnb_8bit: { min8bitSize: 1 }, sophia: { bs: 4 } };
/** Rates at which three steps go downhill. */
const rates: Readonly<Record<string, number>> = { sgd: 0.05, adagrad: 0.05, adafactor_torch: 0.05 };
const made = (name: string): Optimizer => optimizer(name, { learningRate: rates[name] ?? 0.01, weightDecay: 0, ...needed[name] });
const x = tensor(Array.from(new Grid(5).host([6, 4], 1, "f32").data), { shape: [6, 4] }), want = tensor(Array.from(new Grid(6).host([6, 5], 1, "f32").data), { shape: [6, 5] });

interface Net { readonly layer: Linear }
const net = (): Tuned<Net> => lora({ layer: new Linear(store(new Grid(7).host([5, 4], 1, "f32"))) }, { r: 2, loraAlpha: 3, useDora: true, targetModules: ["layer"], seed: 1 });
const lossOf = (t: Tuned<Net>): Tensor => t.base.layer.forward(x, t.context()).sub(want).square().sum().mul(0.1);
const magnitudeOf = (t: Tuned<Net>): Promise<number[]> => Promise.all([...t.tensors()].filter(([key]) => key.endsWith("magnitude_vector")).map(async ([, s]) => [...(await s.data())])).then((list) => list.flat());

describe("beside DoRA", () => {
  it.each(optimizerEntries.map((e) => e.name))("%s", async (name) => {
    setDevice(devices[3]);
    const tuned = net();
    if (name === "muon") { expect(() => made(name).for(tuned.adapter)).toThrow(/lora_magnitude_vector/); return; } // matrices alone
    const o = made(name).for(tuned.adapter), first = await magnitudeOf(tuned), losses: number[] = [];
    for (let t = 0; t < 3; t++) { const l = lossOf(tuned); o.step(gradients(l, tuned.adapter)); losses.push(await l.item()); }
    losses.push(await lossOf(tuned).item());
    expect(losses.every(Number.isFinite)).toBe(true);
    expect(losses[3]).toBeLessThan(losses[0]);
    const now = await magnitudeOf(tuned);
    expect(now.length).toBe(5);
    expect(now.every((v, i) => Number.isFinite(v) && v !== first[i])).toBe(true);
    const other = made(name).for(net().adapter), state = await o.state();
    other.load(state);
    expect(await other.state()).toEqual(state);
  });
});
