/** Laws: LoRA-Pro's projection, inverses and Sylvester's equation, rounding by chance, the dynamic map, clipping, and quadratics in closed form. */
import { type Store, type Tensor, fromBf16, fromF16, fromHost, setDevice, store, tensor, toBf16, toF16 } from "@adjoint/tensor";
import { gradients } from "@adjoint/autograd";
import { dynamicMap } from "@adjoint/quant";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type LoraProMode, type Optimizer, adagrad, adafactor, clipAdaptively, globalNorm, clipByNorm, clipByValue, decodeDynamic, encodeDynamic, inverses, lamb, lion, loraProGradients, nadam, orthogonalized, preconditionPairs, rademacher, rmsprop, roundByChance, sampleLabels, sgd, sylvester, optimizer, type Context } from "@adjoint/optim";
import { devices, expectClose } from "./golden.ts";

const [reference, , , wasm] = devices;
const context = (leaves: Readonly<Record<string, Tensor>>): Context => ({ ofStep: () => tensor(0), ofUpdates: () => tensor(0), keep: (x) => x, leaves });
const dyadic = (low: number, high: number): fc.Arbitrary<number> => fc.integer({ min: low * 16, max: high * 16 }).map((k) => k / 16);
const matrix = (m: number, n: number): fc.Arbitrary<number[]> => fc.array(dyadic(-2, 2), { minLength: m * n, maxLength: m * n });
const f64 = (data: readonly number[], shape: readonly number[]): Tensor => fromHost({ dtype: "f64", shape: [...shape], data: Float64Array.from(data) });
const read = async (x: Tensor): Promise<number[]> => [...await x.data()];
/** Gram matrices whose smallest eigenvalue is not tiny: XXᵀ + I/4. */
const gram = (data: readonly number[], r: number, n: number): Tensor => { const x = f64(data, [r, n]); return x.matmul(x.T).add(f64(Array.from({ length: r * r }, (_, i) => (i % (r + 1) === 0 ? 0.25 : 0)), [r, r])); };
const sizes = fc.record({ r: fc.integer({ min: 1, max: 3 }), m: fc.integer({ min: 3, max: 5 }), n: fc.integer({ min: 3, max: 6 }) });

describe("small matrices", () => {
  it("inverses: M X = I, several sizes at once, in their order", async () => {
    setDevice(reference);
    await fc.assert(fc.asyncProperty(fc.array(fc.integer({ min: 1, max: 4 }).chain((r) => matrix(r, 5).map((x) => ({ r, x }))), { minLength: 1, maxLength: 4 }), async (list) => {
      const ms = list.map(({ r, x }) => gram(x, r, 5)), answers = inverses(ms, 0);
      for (const [i, { r }] of list.entries()) expectClose(await read(ms[i].matmul(answers[i])), Array.from({ length: r * r }, (_, k) => (k % (r + 1) === 0 ? 1 : 0)), 1e-9);
    }), { numRuns: 5 });
  });
  it("inverses of what cannot be inverted stay finite, in f32 too: zeros give I / damping, rank one a pseudo-inverse up to the damping", async () => {
    for (const device of [reference, wasm]) {
      setDevice(device);
      const [zero, one] = inverses([tensor([0, 0, 0, 0], { shape: [2, 2] }), tensor([4, 4, 4, 4], { shape: [2, 2] })], 1e-8);
      expectClose((await read(zero)).map((x) => x * 1e-8), [1, 0, 0, 1], 1e-4);
      const x = await read(one);
      expect(x.every(Number.isFinite)).toBe(true);
      expectClose([x.reduce((a, b) => a + b)], [0.25], 0.02);               // along (1, 1) the inverse of 8 is 1/8: all entries add up to 2/8
    }
  });
  it("sylvester: PX + XQ = C", async () => {
    setDevice(reference);
    await fc.assert(fc.asyncProperty(fc.integer({ min: 1, max: 3 }).chain((r) => fc.record({ r: fc.constant(r), p: matrix(r, 4), q: matrix(r, 4), c: matrix(r, r) })), async ({ r, p, q, c }) => {
      const P = gram(p, r, 4), Q = gram(q, r, 4), C = f64(c, [r, r]), [X] = sylvester([P], [Q], [C]);
      expectClose(await read(P.matmul(X).add(X.matmul(Q))), c, 1e-9);
    }), { numRuns: 5 });
  });
  it("sylvester with P = 0, as at a fresh adapter", async () => {
    setDevice(reference);
    const Q = gram([1, 2, 3, 4, 0.5, 0, 1, -1], 2, 4), C = f64([1, 2, 3, 4], [2, 2]), [X] = sylvester([f64([0, 0, 0, 0], [2, 2])], [Q], [C]);
    expectClose(await read(X.matmul(Q)), [1, 2, 3, 4], 1e-9);
  });
  it("orthogonalized: singular values between 0.6 and 1.3, the same singular vectors", async () => {
    setDevice(reference);
    await fc.assert(fc.asyncProperty(dyadic(0.5, 2), dyadic(0.5, 2), fc.boolean(), async (a, b, tall) => {
      const x = f64(tall ? [a, 0, 0, b, 0, 0] : [a, 0, 0, 0, b, 0], tall ? [3, 2] : [2, 3]), y = await read(orthogonalized(x)), d = [y[0], tall ? y[3] : y[4]];
      expect(d.every((s) => s > 0.6 && s < 1.3)).toBe(true);
      expect(y.reduce((s, v) => s + Math.abs(v), 0) - d[0] - d[1]).toBeLessThan(1e-12);
    }), { numRuns: 10 });
  });
});

describe("LoRA-Pro", () => {
  const draws = sizes.chain(({ r, m, n }) => fc.record({ r: fc.constant(r), m: fc.constant(m), n: fc.constant(n), a: matrix(r, n), b: matrix(m, r), g: matrix(m, n), s: fc.constantFrom(0.5, 1, 2) }));
  const full = (x: readonly number[], rows: number, columns: number): number[] => x.map((v, i) => v + (Math.floor(i / columns) === i % columns ? 5 : 0)).slice(0, rows * columns);   // far from singular
  it.each<LoraProMode>(["sylvester", "symmetry", "zero"])("%s: s(B gA + gB A) = P_B g + (I - P_B) g P_A, whatever X", async (mode) => {
    setDevice(reference);
    await fc.assert(fc.asyncProperty(draws, async ({ r, m, n, a, b, g, s }) => {
      const A = f64(full(a, r, n), [r, n]), B = f64(full(b, m, r), [m, r]), G = f64(g, [m, n]), leaves = { lora_A: A, lora_B: B };
      const { updates: u } = loraProGradients(s, mode).update({ lora_A: B.T.matmul(G).mul(s), lora_B: G.matmul(A.T).mul(s) }, {}, leaves, context(leaves));
      const [iA, iB] = [inverses([A.matmul(A.T)], 0)[0], inverses([B.T.matmul(B)], 0)[0]], inB = B.matmul(iB).matmul(B.T).matmul(G), rest = G.sub(inB), inA = rest.matmul(A.T).matmul(iA).matmul(A);
      expectClose(await read(B.matmul(u.lora_A).add(u.lora_B.matmul(A)).mul(s)), await read(inB.add(inA)), 1e-6);
    }), { numRuns: 4 });
  });
  it("sylvester is the nearest to the plain gradients of the three", async () => {
    setDevice(reference);
    await fc.assert(fc.asyncProperty(draws, async ({ r, m, n, a, b, g, s }) => {
      const A = f64(full(a, r, n), [r, n]), B = f64(full(b, m, r), [m, r]), G = f64(g, [m, n]), leaves = { lora_A: A, lora_B: B }, plain = { lora_A: B.T.matmul(G).mul(s), lora_B: G.matmul(A.T).mul(s) };
      const far = async (mode: LoraProMode): Promise<number> => {
        const { updates: u } = loraProGradients(s, mode).update(plain, {}, leaves, context(leaves));
        return (await u.lora_A.sub(plain.lora_A.mul(1)).square().sum().add(u.lora_B.sub(plain.lora_B).square().sum()).data())[0];
      };
      const best = await far("sylvester");
      expect(best).toBeLessThanOrEqual(Math.min(await far("symmetry"), await far("zero")) * (1 + 1e-6) + 1e-9);
    }), { numRuns: 3 });
  });
  it("Riemannian: (BᵀB + reg I) g_A' = g_A and g_B' (AAᵀ + reg I) = g_B; other leaves pass", async () => {
    setDevice(reference);
    await fc.assert(fc.asyncProperty(draws, async ({ r, m, n, a, b }) => {
      const A = f64(a, [r, n]), B = f64(b, [m, r]), leaves = { lora_A: A, lora_B: B, bias: f64([1], [1]) }, plain = { lora_A: A.mul(2), lora_B: B.neg(), bias: leaves.bias };
      const { updates: u } = preconditionPairs(0.25).update(plain, {}, leaves, context(leaves)), damp = (M: Tensor): Tensor => M.add(f64(Array.from({ length: r * r }, (_, i) => (i % (r + 1) === 0 ? 0.25 : 0)), [r, r]));
      expectClose(await read(damp(B.T.matmul(B)).matmul(u.lora_A)), await read(plain.lora_A), 1e-9);
      expectClose(await read(u.lora_B.matmul(damp(A.matmul(A.T)))), await read(plain.lora_B), 1e-9);
      expect(u.bias).toBe(plain.bias);
    }), { numRuns: 5 });
  });
});

describe("rounding by chance", () => {
  const bits = { bf16: { to: toBf16, from: fromBf16 }, f16: { to: toF16, from: fromF16 } } as const;
  for (const device of [reference, wasm]) it.each(["bf16", "f16"] as const)(`%s on ${device.name}: one of the two neighbours, in the right share; exact numbers stay`, async (dtype) => {
    setDevice(device);
    const { to, from } = bits[dtype];
    await fc.assert(fc.asyncProperty(fc.integer({ min: -8, max: 8 }), fc.integer({ min: 1, max: 15 }), fc.integer({ min: -11, max: 11 }), fc.boolean(), async (k, sixteenths, e, negative) => {
      const low = from(to(2 ** e * (1 + Math.abs(k) / 8))), up = from(to(low) + 1), share = sixteenths / 16, sign = negative ? -1 : 1, x = sign * (low + (up - low) * share), n = 512;
      const y = await roundByChance(fromHost({ dtype: "f32", shape: [n], data: new Float32Array(n).fill(x) }), dtype, { seed: 3, stream: `${k}/${e}` }).data();
      expect([...y].every((v) => v === sign * low || v === sign * up)).toBe(true);
      expect(Math.abs([...y].filter((v) => v === sign * up).length / n - share)).toBeLessThan(0.11);
      expect(await read(roundByChance(tensor([sign * low, 0]), dtype, { seed: 3, stream: "x" }))).toEqual([sign * low, 0]);
    }), { numRuns: 20 });
  });
  it("updates far below half a step arrive on average; without it they are lost, with masters they arrive exactly", async () => {
    setDevice(wasm);
    const n = 2048, one = (): { p: Store } => ({ p: store({ dtype: "bf16", shape: [n], data: new Uint16Array(n).fill(toBf16(1)) }) }), g = { p: fromHost({ dtype: "f32", shape: [n], data: new Float32Array(n).fill(1) }) };
    const mean = async (o: Optimizer): Promise<number> => { const t = one(), b = o.for(t); for (let i = 0; i < 32; i++) b.step(g); const y = await t.p.data(); return [...y].reduce((a, v) => a + v) / n; };
    expect(Math.abs(await mean(sgd({ learningRate: 2 ** -12, stochasticRounding: true })) - (1 - 32 * 2 ** -12))).toBeLessThan(1e-3);
    expect(await mean(sgd({ learningRate: 2 ** -12, masterWeights: true }))).toBe(fromBf16(toBf16(1 - 32 * 2 ** -12)));
  });
});

describe("the dynamic map", () => {
  it.each(["signed", "unsigned"] as const)("%s: a code's number is the nearest there is", async (map) => {
    setDevice(reference);
    const table = await decodeDynamic(fromHost({ dtype: "u8", shape: [256], data: Uint8Array.from({ length: 256 }, (_, i) => i) }), map, "f64").data();
    expect([...table].every((v, i) => i === 0 || v > table[i - 1])).toBe(true);
    dynamicMap(map === "signed").forEach((v, i) => { expect(Math.abs(table[i] - v)).toBeLessThanOrEqual(2e-7 * Math.abs(v)); });
    await fc.assert(fc.asyncProperty(fc.array(fc.record({ m: dyadic(map === "signed" ? -1 : 0, 1), e: fc.integer({ min: 0, max: 20 }) }), { minLength: 1, maxLength: 20 }), async (list) => {
      const xs = list.map(({ m, e }) => m * 2 ** -e), codes = await encodeDynamic(f64(xs, [xs.length]), map).data();
      xs.forEach((x, i) => {
        const best = Math.min(...[...table].map((v) => Math.abs(v - x)));
        if (x < 0 && -x < table[128] / 2) expect(codes[i]).toBe(126); else expect(Math.abs(table[codes[i]] - x)).toBeLessThanOrEqual(best * (1 + 1e-9) + 1e-18);
      });
    }), { numRuns: 25 });
  });
});

describe("clipping", () => {
  const values = fc.array(dyadic(-4, 4), { minLength: 1, maxLength: 6 });
  it("by value, by a leaf's norm, by a share of each row's norm", async () => {
    setDevice(reference);
    await fc.assert(fc.asyncProperty(values, values, dyadic(0.0625, 2), async (a, b, limit) => {
      const g = { a: f64(a, [a.length]), b: f64([...b, ...b], [2, b.length]) }, p = { a: f64(a.map(() => 1), [a.length]), b: f64([...b.map(() => 2), ...b.map(() => 0)], [2, b.length]) };
      const [byValue, byNorm, byShare] = [clipByValue(limit), clipByNorm(limit), clipAdaptively({ clipFactor: limit, eps: 0.5 })].map((t) => t.update(g, {}, p, context(p)).updates), size = (x: readonly number[]): number => Math.hypot(...x);
      expect(await read(byValue.a)).toEqual(a.map((x) => Math.max(-limit, Math.min(limit, x))));
      expectClose(await read(byNorm.a), a.map((x) => x * Math.min(1, limit / (size(a) + 1e-6))), 1e-12);
      const rows = await read(byShare.b), rowLimit = [limit * 2 * Math.sqrt(b.length), limit * 0.5];
      expectClose(rows, [0, 1].flatMap((r) => b.map((x) => x * Math.min(1, rowLimit[r] / Math.max(size(b), 1e-6)))), 1e-12);
      expectClose(await read(byShare.a), a.map((x) => x * Math.min(1, limit * Math.max(Math.sqrt(a.length), 0.5) / Math.max(size(a), 1e-6))), 1e-12);
    }), { numRuns: 20 });
  });
  it("the global norm is the exact sum's within two roundings of f32, for a million numbers of any size", async () => {
    const n = 1 << 19, data = Float32Array.from({ length: n }, (_, i) => ((i * 7919) % 1009) / 1009 * 10 ** ((i % 5) - 2)), exact = Math.sqrt(2 * data.reduce((s, v) => s + v * v, 0));
    for (const device of [reference, wasm]) {
      setDevice(device);
      expectClose([await globalNorm({ a: fromHost({ dtype: "f32", shape: [n], data }), b: fromHost({ dtype: "f32", shape: [512, n / 512], data }) }).item() / exact], [1], 1.2e-7);
    }
  });
  it("many small numbers beside a large one are not lost, as they are in f32", async () => {
    setDevice(wasm);
    const n = 1 << 20, data = new Float32Array(n).fill(2 ** -14);
    data[0] = 1;
    const x = fromHost({ dtype: "f32", shape: [n], data });
    expect(await globalNorm({ x, y: x.mul(2) }).item()).toBe(Math.fround(Math.sqrt(5 * (1 + (n - 1) * 2 ** -28))));
  });
  it("in an optimizer: values first, all together last", async () => {
    setDevice(wasm);
    const p = store(tensor([0, 0]));
    sgd({ learningRate: 1, maxGradValue: 3, maxLeafNorm: 100, maxGradNorm: 2.5 }).for({ p }).step({ p: tensor([30, 4]) });
    expectClose(await p.data(), [-3 * 2.5 / Math.hypot(3, 3), -3 * 2.5 / Math.hypot(3, 3)], 1e-6);
  });
});

describe("closed trajectories on c/2 ‖p‖²", () => {
  const starts = fc.array(dyadic(0.5, 4), { minLength: 1, maxLength: 4 });
  const run = async (o: Optimizer, start: number[], c: number, steps: number): Promise<number[]> => {
    const p = store(tensor(start, { dtype: "f64" })), bound = o.for({ p });
    for (let t = 0; t < steps; t++) bound.step(gradients(p.mul(p).sum().mul(c / 2), { p }));
    return read(p);
  };
  const law = (what: string, make: (lr: number) => Optimizer, next: (p: number, g: number, state: number[], t: number, lr: number) => number): void => it(what, async () => {
    setDevice(reference);
    await fc.assert(fc.asyncProperty(starts, dyadic(0.25, 2), dyadic(0.0625, 0.25), fc.integer({ min: 1, max: 6 }), async (start, c, lr, n) => {
      const want = start.map((x) => { const state = [0, 0]; let p = x; for (let t = 1; t <= n; t++) p = next(p, c * p, state, t, lr); return p; });
      expectClose(await run(make(lr), start, c, n), want, 1e-11);
    }), { numRuns: 12 });
  });
  law("lion moves lr a step until it crosses 0", (lr) => lion({ learningRate: lr }), (p, g, s, _, lr) => { const u = Math.sign(0.9 * s[0] + (1 - 0.9) * g); s[0] = 0.99 * s[0] + (1 - 0.99) * g; return p - lr * u; });
  law("adagrad", (lr) => adagrad({ learningRate: lr }), (p, g, s, _, lr) => { s[0] += g * g; return p - lr * g / (Math.sqrt(s[0]) + 1e-10); });
  law("rmsprop", (lr) => rmsprop({ learningRate: lr, alpha: 0.5 }), (p, g, s, _, lr) => { s[0] = 0.5 * s[0] + 0.5 * g * g; return p - lr * g / (Math.sqrt(s[0]) + 1e-8); });
  law("nadam without decay of momenta: μ = β₁/2 always", (lr) => nadam({ learningRate: lr, betas: [0.5, 0.5], momentumDecay: 0 }), (p, g, s, t, lr) => {
    const mu = 0.25; s[0] = 0.5 * s[0] + 0.5 * g; s[1] = 0.5 * s[1] + 0.5 * g * g;
    return p - lr * ((1 - mu) / (1 - mu ** t) * g + mu / (1 - mu ** (t + 1)) * s[0]) / (Math.sqrt(s[1] / (1 - 0.5 ** t)) + 1e-8);
  });
  it("lamb's first step is lr ‖p‖ long", async () => {
    setDevice(reference);
    await fc.assert(fc.asyncProperty(starts, dyadic(0.0625, 0.5), async (start, lr) => {
      const p = await run(lamb({ learningRate: lr, weightDecay: 0 }), start, 1, 1);
      expectClose([Math.hypot(...p.map((x, i) => x - start[i]))], [lr * Math.hypot(...start)], 1e-9);
    }), { numRuns: 10 });
  });
  it("adafactor's relative steps are min(1e-2, 1/√t) max(eps, RMS) long, and at most that", async () => {
    setDevice(reference);
    await fc.assert(fc.asyncProperty(starts, async (start) => {
      const p = await run(adafactor(), start, 1, 1), scale = Math.max(1e-3, Math.sqrt(start.reduce((a, x) => a + x * x, 0) / start.length));
      expectClose(p, start.map((x) => x - 1e-2 * scale * Math.sign(x)), 1e-6);
    }), { numRuns: 10 });
  });
  it("every 8-bit optimizer goes where its 32-bit one goes, to a hundredth of the way", async () => {
    setDevice(wasm);
    const far = async (name: string, options: object): Promise<number[]> => {
      const p = store(fromHost({ dtype: "f32", shape: [512], data: Float32Array.from({ length: 512 }, (_, i) => 1 + (i % 17) / 16) })), o = optimizer(name, { learningRate: 0.01, weightDecay: 0, ...options }).for({ p });
      for (let t = 0; t < 20; t++) o.step(gradients(p.mul(p).sum().mul(0.5), { p }));
      return read(p);
    };
    for (const [small, wide] of [["adamw_8bit", "adamw"], ["lion_8bit", "lion"]]) {
      const [a, b] = [await far(small, { min8bitSize: 256 }), await far(wide, {})];
      expectClose(a, b, 0.004);
      if (small === "adamw_8bit") expect(a).not.toEqual(b);
    }
  });
});

describe("samples", () => {
  it("labels follow softmax; signs are ±1 half and half, and differ from leaf to leaf", async () => {
    for (const device of [reference, wasm]) {
      setDevice(device);
      const n = 2000, logits = tensor([0, Math.log(2), Math.log(5)]).reshape([1, 3]).expand([n, 3]), labels = await sampleLabels(logits, { seed: 5, stream: "labels" }).data();
      [1 / 8, 2 / 8, 5 / 8].forEach((p, k) => { expect(Math.abs([...labels].filter((x) => x === k).length / n - p)).toBeLessThan(0.04); });
      const v = rademacher({ a: tensor(new Float32Array(1000)), b: tensor(new Float32Array(1000)) }, { seed: 1, stream: "v" }), [a, b] = [await read(v.a!), await read(v.b!)];
      expect(a.every((x) => x === 1 || x === -1)).toBe(true);
      expect(Math.abs(a.reduce((s, x) => s + x, 0))).toBeLessThan(150);
      expect(a).not.toEqual(b);
    }
  });
});
