/**
 * All optimizers on two famous functions, as pictures for docs/optimizers.md.
 *
 * Rosenbrock: (1 - x)² + 100(y - x²)² from (-1.2, 1). Beale: (1.5 - x + xy)² + (2.25 - x + xy²)² + (2.625 - x + xy³)² from (1, 1.6).
 * Every optimizer takes 300 steps in f64 at each of the rates 10^-3.5, 10^-3.17, ..., 10^0.5; of those whose path stays in the picture the one of
 * lowest f at the end is drawn. Options are the defaults, without decay unless the name says so. Optimizers of adapters move a rank-1 product (x, y) = B A, from A = 1.
 */
import { writeFileSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { gradients } from "@adjoint/autograd";
import { type CommonOptions, adafactor, adafactorTorch, adagrad, adam, adam8bit, adamw, adamw8bit, estimateCurvature, lamb, lion, lion8bit, loraFa, loraPro, muon, nadam, type Optimizer, rademacher, riemannian, rmsprop, rmsprop8bit, sgd, sophia } from "@adjoint/optim";
import { compile, concat, counter, createReference, fromHost, live, mapTree, setDevice, store, type Store, Tensor } from "@adjoint/tensor";
import type * as Drawing from "./draw.mjs";

const STEPS = 300, RATES = Array.from({ length: 13 }, (_, i) => 10 ** (-3.5 + i / 3));
type Point = readonly [number, number];

interface Surface { readonly name: string; readonly title: string; readonly start: Point; readonly minimum: Point; readonly x: Point; readonly y: Point; readonly f: (x: Tensor, y: Tensor) => Tensor; readonly height: (x: number, y: number) => number; readonly lowest: number }
const square = (t: Tensor): Tensor => t.mul(t);
const surfaces: readonly Surface[] = [
  {
    name: "rosenbrock", title: "Rosenbrock's valley, f = (1 - x)² + 100 (y - x²)²", start: [-1.2, 1], minimum: [1, 1], x: [-1.7, 1.7], y: [-0.6, 2.1],
    f: (x, y) => square(x.neg().add(1)).add(square(y.sub(square(x))).mul(100)), height: (x, y) => (1 - x) ** 2 + 100 * (y - x * x) ** 2, lowest: 3,
  },
  {
    name: "beale", title: "Beale's function, f = (1.5 - x + xy)² + (2.25 - x + xy²)² + (2.625 - x + xy³)²", start: [1, 1.6], minimum: [3, 0.5], x: [-1, 4.4], y: [-1.6, 2.1],
    f: (x, y) => { const xy = x.mul(y), xyy = xy.mul(y); return square(xy.sub(x).add(1.5)).add(square(xyy.sub(x).add(2.25))).add(square(xyy.mul(y).sub(x).add(2.625))); },
    height: (x, y) => (1.5 - x + x * y) ** 2 + (2.25 - x + x * y * y) ** 2 + (2.625 - x + x * y ** 3) ** 2, lowest: 0.3,
  },
];

type Make = (options: CommonOptions) => Optimizer;
interface Entry { readonly label: string; readonly make: Make; readonly factors?: boolean; readonly curvature?: boolean }
const plain = { min8bitSize: 0 } as const;
const panels: readonly { readonly title: string; readonly entries: readonly Entry[] }[] = [
  { title: "The gradient, and momentum", entries: [{ label: "SGD", make: sgd }, { label: "momentum 0.9", make: (o) => sgd({ ...o, momentum: 0.9 }) }, { label: "Nesterov", make: (o) => sgd({ ...o, momentum: 0.9, nesterov: true }) }] },
  { title: "Divided by the size of past gradients", entries: [{ label: "Adagrad", make: adagrad }, { label: "RMSprop", make: rmsprop }, { label: "Adafactor", make: (o) => adafactor({ ...o, scaleParameter: false, relativeStep: false }) }, { label: "Adafactor (torch)", make: adafactorTorch }] },
  { title: "Both: Adam and its kin", entries: [{ label: "Adam", make: adam }, { label: "AMSGrad", make: (o) => adam({ ...o, amsgrad: true }) }, { label: "NAdam", make: nadam }, { label: "AdamW, λ 0.1", make: (o) => adamw({ ...o, weightDecay: 0.1 }) }] },
  { title: "Steps of one length, or clipped by curvature", entries: [{ label: "Lion", make: lion }, { label: "Muon", make: muon }, { label: "LAMB", make: lamb }, { label: "Sophia", make: sophia, curvature: true }] },
  { title: "States in 8 bits", entries: [{ label: "Adam", make: (o) => adam8bit({ ...o, ...plain }) }, { label: "AdamW, λ 0.1", make: (o) => adamw8bit({ ...o, ...plain, weightDecay: 0.1 }) }, { label: "Lion", make: (o) => lion8bit({ ...o, ...plain }) }, { label: "RMSprop", make: (o) => rmsprop8bit({ ...o, ...plain }) }] },
  { title: "An adapter: (x, y) = B A", entries: [{ label: "AdamW", make: adamw, factors: true }, { label: "LoRA-FA", make: (o) => loraFa({ ...o, scaling: 1 }), factors: true }, { label: "Riemannian", make: riemannian, factors: true }, { label: "LoRA-Pro", make: (o) => loraPro({ ...o, scaling: 1 }), factors: true }] },
];

const cell = (shape: readonly number[], values: readonly number[]): Store => store(fromHost({ dtype: "f64", shape, data: Float64Array.from(values) }));
interface Own { readonly point: Store } interface Pair { readonly lora_A: { readonly weight: Store }; readonly lora_B: { readonly weight: Store } }
const isTensor = (x: unknown): x is Tensor => x instanceof Tensor;

/** The path of the best rate: points of all steps. */
function follow({ make, factors = false, curvature = false }: Entry, { f, height, start, x, y }: Surface): { rate: number; points: Point[]; end: number } {
  // an optimizer a rate: a step that is skipped because its numbers are no longer finite holds up no other
  const runs = RATES.map((learningRate) => {
    const leaf: Own | Pair = factors ? { lora_A: { weight: cell([1, 1], [1]) }, lora_B: { weight: cell([2, 1], start) } } : { point: cell([1, 2], start) };
    const point = (): Tensor => ("point" in leaf ? leaf.point.reshape([2]) : leaf.lora_B.weight.matmul(leaf.lora_A.weight).reshape([2]));
    const loss = (): Tensor => { const p = point(); return f(p.slice(0, 0, 1), p.slice(0, 1, 2)).sum(); };
    return { leaf, point, loss, optimizer: make({ weightDecay: 0, learningRate }).for(leaf) };
  });
  const key = counter(0, "draw");
  const step = compile(() => { for (const { loss, leaf, optimizer } of runs) optimizer.step(gradients(loss(), leaf)); });
  // Sophia's diagonal, by Hutchinson: v ⊙ Hv, not below 0
  const look = compile(() => {
    for (const { loss, leaf, optimizer } of runs) {
      const g = gradients(loss(), leaf), v = rademacher(leaf, { seed: 1, stream: "curvature", step: live(key, (n) => n, "u32") }), signs: Tensor[] = [], parts: Tensor[] = [];
      mapTree(v, isTensor, (x: Tensor) => { signs.push(x.cast("f64")); return x; });
      mapTree(g, isTensor, (x: Tensor) => { parts.push(x.mul(signs[parts.length]).sum()); return x; });
      const hv = gradients(parts.reduce((a, b) => a.add(b)), leaf);
      let i = 0;
      estimateCurvature(optimizer, () => mapTree(hv, isTensor, (x: Tensor) => x.mul(signs[i++]).maximum(0)));
    }
    key.tick();
  });
  const positions = (): Point[] => { const all = concat(runs.map((r) => r.point())).dataSync(); return runs.map((_, i) => [Number(all[2 * i]), Number(all[2 * i + 1])]); };
  const all: Point[][] = [positions()];
  for (let t = 0; t < STEPS; t++) {
    if (curvature && t % 10 === 0) look();
    step();
    all.push(positions());
  }
  const inside = ([px, py]: Point): boolean => px >= x[0] && px <= x[1] && py >= y[0] && py <= y[1];
  const ends = RATES.map((_, i) => { const h = height(...all[STEPS][i]); return Number.isFinite(h) && all.every((p) => inside(p[i])) ? h : Infinity; }), best = ends.indexOf(Math.min(...ends));
  return { rate: RATES[best], points: all.map((p) => p[best]), end: ends[best] };
}

/** Fewer points where a path hardly moves: one a pixel is enough. */
function thinned(points: readonly Point[], { x, y }: Surface): Point[] {
  const far = ([a, b]: Point, [c, d]: Point): boolean => Math.hypot((288 * (a - c)) / (x[1] - x[0]), (230 * (b - d)) / (y[1] - y[0])) > 2;
  const kept: Point[] = [points[0]];
  for (const p of points) if (far(p, kept[kept.length - 1])) kept.push(p);
  return [...kept, points[points.length - 1]];
}

const flag = (name: string): string | undefined => { const i = process.argv.indexOf(name); return i < 0 ? undefined : process.argv[i + 1]; };
const out = flag("--out") ?? "docs/pictures", only = flag("--only");
const { draw } = (await import(pathToFileURL(join(flag("--drawing") ?? "benchmarks/pictures", "draw.mjs")).href)) as typeof Drawing;
setDevice(createReference());
mkdirSync(out, { recursive: true });
for (const surface of surfaces) {
  if (only !== undefined && surface.name !== only) continue;
  const drawn = panels.map(({ title, entries }) => ({
    title,
    paths: entries.map((entry) => {
      const { rate, points, end } = follow(entry, surface);
      process.stderr.write(`${surface.name.padEnd(11)} ${entry.label.padEnd(18)} rate ${rate.toPrecision(2).padEnd(8)} f ${end.toExponential(1)}\n`);
      return { label: entry.label, points: thinned(points, surface) };
    }),
  }));
  const level = (x: number, y: number): number => -Math.log10(surface.height(x, y) + 1e-3);
  const svg = await draw({
    surface: { ...surface, level, thresholds: Array.from({ length: 8 }, (_, i) => -3 + i / 2).filter((h) => h <= -Math.log10(surface.lowest) + 0.1) }, panels: drawn, heading: surface.title,
    note: `${STEPS} steps from the circle towards the cross, each optimizer at the best of ${RATES.length} rates between 0.0003 and 3 that keep it in the picture; contours at half decades of f from 1000 to ${surface.lowest}`,
  });
  const file = join(out, `${surface.name}.svg`);
  writeFileSync(file, svg);
  process.stderr.write(`${file}: ${(svg.length / 1024).toFixed(0)} KiB\n`);
}
