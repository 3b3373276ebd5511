/** Fifty steps equal torch's, Transformers', PEFT's, and the papers' formulas; eight bits equal bitsandbytes's. */
import { type Backend, type DType, type Tensor, compile, fromHost, setDevice, store } from "@adjoint/tensor";
import { describe, expect, it } from "vitest";
import { type BoundOptimizer, type Optimizer, adafactor, decodeDynamic, encodeDynamic, estimateCurvature, oneCycle, oneCycleMomentum, optimizer, zeroCode } from "@adjoint/optim";
import { devices } from "./golden.ts";
import { Grid, SEED, type Shapes, expectNear, long, longTensors, optionsOf } from "./long.ts";

const [reference, , , wasm] = devices;
const settings: readonly [string, Backend, DType, number][] = [["f64", reference, "f64", 1e-12], ["f32", wasm, "f32", 2e-6]];
type Tree = Record<string, ReturnType<typeof store>>;

interface Run {
  /** something to do before a step */
  readonly before?: (t: number, bound: BoundOptimizer<Tree>, g: Record<string, Tensor>) => void;
  /** shapes of what the fixture's stream holds each step, if not the gradients themselves, and the gradients that follow from it */
  readonly drawn?: Shapes;
  readonly gradientsOf?: (drawn: Record<string, Tensor>, tree: Tree) => Record<string, Tensor>;
}
/** Fifty compiled steps; `check` after those that the fixture keeps. */
async function run(shapes: Shapes, made: Optimizer, dtype: DType, check: (t: number, tree: Tree) => Promise<void>, { before, drawn = shapes, gradientsOf = (g) => g }: Run = {}): Promise<BoundOptimizer<Tree>> {
  const grid = new Grid(SEED), tree = grid.stores(shapes, dtype), bound = made.for(tree), step = compile((g: Record<string, Tensor>) => bound.step(gradientsOf(g, tree)).gradNorm);
  for (let t = 1; t <= 50; t++) {
    const g = grid.gradients(drawn, dtype);
    before?.(t, bound, g);
    step(g);
    if (t === 1 || t === 10 || t === 50) await check(t, tree);
  }
  return bound;
}
/** torch's one-cycle moves the rate, and the momentum or β₁ against it. */
const cycle: Readonly<Record<string, object>> = { "sgd-onecycle": { momentum: oneCycleMomentum({ steps: 50 }) }, "adamw-onecycle": { betas: [oneCycleMomentum({ steps: 50 }), 0.999] } };
function make(c: { name: string; optimizer: string; options: Readonly<Record<string, unknown>> }): Optimizer {
  const options = optionsOf(c.options);
  if (c.optimizer === "adafactor") return adafactor(options);
  return optimizer(c.optimizer, c.name in cycle ? { ...options, learningRate: oneCycle({ peak: 0.02, steps: 50 }), ...cycle[c.name] } : options);
}

for (const [what, device, dtype, bound] of settings) describe(`50 steps in ${what} on ${device.name}`, () => {
  for (const c of long.cases) it(c.name, async () => {
    setDevice(device);
    const shapes = c.optimizer === "muon" ? long.matrices : long.leaves;
    const o = await run(shapes, make(c), dtype, async (t, tree) => {
      for (const k of Object.keys(shapes)) expectNear(await tree[k].data(), `${c.name}/${t}/${k}`, bound);
    }, {
      before: (t, b, g) => {
        if (c.optimizer === "sophia" && t % 10 === 1) estimateCurvature(b, () => Object.fromEntries(Object.entries(g).map(([k, x]) => [k, x.div(2).square()])));
      },
    });
    const saved = await o.state(), compared = [...longTensors.keys()].filter((k) => k.startsWith(`${c.name}/state/`));
    expect(compared.length).toBeGreaterThan(0);
    for (const name of compared) expectNear(saved[name.slice(c.name.length + 7).replace("/", ".")].data, name, bound);
  });

  for (const c of long.adapters) it(c.name, async () => {
    setDevice(device);
    const scaling = (path: string): number => long.scales[path[0]], options = { learningRate: 0.01, weightDecay: 0.1, noDecay: null, ...c.options, ...(c.optimizer === "riemannian" ? {} : { scaling }) };
    await run(long.adapter, optimizer(c.optimizer, options), dtype, async (t, tree) => {
      for (const k of Object.keys(long.adapter)) expectNear(await tree[k].data(), `${c.name}/${t}/${k}`, bound);
    }, {
      drawn: { x: [6, 7], y: [4, 5], "y.bias": [4] },
      gradientsOf: (drawn, tree) => {
        const out: Record<string, Tensor> = { "y.bias": drawn["y.bias"] };
        for (const m of ["x", "y"]) {
          out[`${m}.lora_A.weight`] = tree[`${m}.lora_B.weight`].T.matmul(drawn[m]).mul(long.scales[m]);
          out[`${m}.lora_B.weight`] = drawn[m].matmul(tree[`${m}.lora_A.weight`].T).mul(long.scales[m]);
        }
        return out;
      },
    });
  });
});

describe("what torch's bf16 iteration of Muon differs by", () => {
  it("less than a hundredth of the way", async () => {
    setDevice(wasm);
    const start = new Grid(SEED).stores(long.matrices, "f32"), from = Object.fromEntries(await Promise.all(Object.entries(start).map(async ([k, s]) => [k, await s.data()] as const)));
    await run(long.matrices, optimizer("muon", { learningRate: 0.01, noDecay: null }), "f32", async (t, tree) => {
      if (t !== 50) return;
      for (const k of Object.keys(long.matrices)) {
        const ours = await tree[k].data(), theirs = longTensors.get(`muon-bf16/50/${k}`)!.data;
        const length = (f: (i: number) => number): number => Math.hypot(...Array.from(ours, (_, i) => f(i)));
        expect(length((i) => ours[i] - theirs[i]) / length((i) => theirs[i] - from[k][i])).toBeLessThan(0.01);
      }
    });
  });
});

describe("eight bits", () => {
  for (const device of [reference, wasm]) for (const c of long.eight_bit) it(`${c.name} on ${device.name}: from bitsandbytes's state, its codes within one and its parameters`, async () => {
    setDevice(device);
    const grid = new Grid(SEED), p = store(grid.host([4396], 1, "f32")), small = store(grid.host([7], 1, "f32")), o = optimizer(c.optimizer, optionsOf(c.options)).for({ p, small });
    let off = 0, all = 0;
    for (let t = 1; t <= 4; t++) {
      o.step({ p: fromHost(grid.host([4396], 2, "f32")), small: fromHost(grid.host([7], 2, "f32")) });
      const saved = await o.state();
      for (const name of Object.keys(o.states)) {
        const theirs = longTensors.get(`${c.name}/${t}/${name}`)!, a = saved[`${name}.p`], b = theirs.data;
        expect([a.dtype, a.data.length], name).toEqual([theirs.dtype, b.length]);
        const scales = name.startsWith("absmax"), far = Array.from(b, (x, i) => Math.abs(a.data[i] - x) / (scales ? x : 1)), worst = Math.max(...far), i = far.indexOf(worst);
        expect(worst, `${name} ${i}, step ${t}: ${a.data[i]} instead of ${b[i]}`).toBeLessThanOrEqual(scales ? 1e-6 : 1);
        if (!scales) { off += far.reduce((x, y) => x + y); all += far.length; }
        o.states[name].p.set(theirs);
      }
    }
    expectNear(await small.data(), `${c.name}/small`, 2e-6);
    expectNear((await p.data()).filter((_, i) => i % 3 === 0), `${c.name}/p`, 2e-6);
    expect(off / all).toBeLessThan(0.05);
  });
  it.each(["signed", "unsigned"] as const)("the %s map: every code decodes to bitsandbytes's number and encodes to itself, and neighbours meet half way", async (map) => {
    setDevice(reference);
    const table = longTensors.get(`map/${map}`)!.data, codes = Uint8Array.from({ length: 256 }, (_, i) => i);
    const numbers = await decodeDynamic(fromHost({ dtype: "u8", shape: [256], data: codes }), map, "f64").data();
    for (let i = 0; i < 256; i++) expect(Math.abs(numbers[i] - table[i])).toBeLessThanOrEqual(2e-7 * Math.abs(table[i]));
    expect([...await encodeDynamic(fromHost({ dtype: "f32", shape: [256], data: table }), map).data()]).toEqual([...codes]);
    const between = Float64Array.from({ length: 255 * 2 }, (_, i) => { const k = i >> 1, w = i & 1 ? 0.51 : 0.49; return table[k] * (1 - w) + table[k + 1] * w; });
    const got = await encodeDynamic(fromHost({ dtype: "f64", shape: [510], data: between }), map).data(), sided = (k: number): number => (between[k] < 0 && (k + 1) >> 1 === zeroCode(map) ? zeroCode(map) - 1 : (k + 1) >> 1);
    expect([...got]).toEqual(Array.from(got, (_, k) => sided(k)));
  });
});
