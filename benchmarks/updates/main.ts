/**
 * `npm run benchmark -- updates`: how near an optimizer's update comes to the speed of copying the same bytes.
 *
 * Two sets of parameters: the 96 matrices of GPT-2 small's adapters (r = 16 on all 48 linear layers), and one matrix of 16 M numbers. A
 * step of AdamW reads gradient, parameter and two moments, and the gradient once more for the finite flag, and writes three of them:
 * 32 bytes a number. A copy of n numbers moves 8 n bytes; it gets as many numbers as make the same bytes. Rounds are interleaved, medians shown.
 */
import { parseArgs } from "node:util";
import { type Optimizer, adamw, adamw8bit, lion, sgd } from "@adjoint/optim";
import { type Store, type Tensor, assign, compile, setDevice, zeroStore } from "@adjoint/tensor";
import { wasm } from "@adjoint/wasm";

const { values: flags } = parseArgs({ options: { threads: { type: "string", default: "2" }, rounds: { type: "string", default: "9" }, milliseconds: { type: "string", default: "400" }, smoke: { type: "boolean", default: false } } });
const rounds = flags.smoke ? 1 : Number(flags.rounds), budget = flags.smoke ? 5 : Number(flags.milliseconds), threads = Number(flags.threads);
setDevice(await wasm({ threads }));

const [layers, width, r] = flags.smoke ? [2, 32, 4] : [12, 768, 16];
const adapters = Object.fromEntries(Array.from({ length: layers }, (_, l) => ([["attn", width, 3 * width], ["proj", width, width], ["fc", width, 4 * width], ["out", 4 * width, width]] as const)
  .flatMap(([name, i, o]) => [[`h.${l}.${name}.lora_A`, [r, i]], [`h.${l}.${name}.lora_B`, [o, r]]] as const)).flat());
const sets: Readonly<Record<string, Readonly<Record<string, readonly number[]>>>> = { "96 matrices of adapters": adapters, "one large matrix": { w: flags.smoke ? [64, 64] : [4096, 4096] } };
/** Bytes a number that a step must move: the gradient twice, what it reads and what it writes. */
const optimizers: readonly { readonly name: string; readonly make: () => Optimizer; readonly bytes: number }[] = [
  { name: "adamw", make: () => adamw({ learningRate: 1e-3 }), bytes: 8 + 12 + 12 },
  { name: "adamw 8-bit", make: () => adamw8bit({ learningRate: 1e-3 }), bytes: 8 + 8 + 4 },
  { name: "lion", make: () => lion({ learningRate: 1e-4 }), bytes: 8 + 8 + 8 },
  { name: "sgd, momentum", make: () => sgd({ learningRate: 1e-3, momentum: 0.9 }), bytes: 8 + 8 + 8 },
];

const stores = (shapes: Readonly<Record<string, readonly number[]>>, what: string): Record<string, Store> => Object.fromEntries(Object.entries(shapes).map(([path, shape]) => [path, zeroStore(shape, "f32", `${what}.${path}`)]));
const sizeOf = (shapes: Readonly<Record<string, readonly number[]>>): number => Object.values(shapes).reduce((n, s) => n + s.reduce((a, b) => a * b, 1), 0);
const median = (xs: readonly number[]): number => [...xs].sort((a, b) => a - b)[xs.length >> 1];

/** Seconds a call, in a round of about `budget` milliseconds. */
async function time(step: () => Tensor): Promise<number> {
  const begun = performance.now();
  let n = 0;
  do { await step().data(); n++; } while (performance.now() - begun < budget);
  return (performance.now() - begun) / 1000 / n;
}

console.log(`${threads} threads, ${rounds} rounds of ${budget} ms\n\n${"".padEnd(44)}${"numbers".padStart(12)}${"median".padStart(12)}${"rate".padStart(12)}   of the copy's`);
for (const [set, shapes] of Object.entries(sets)) {
  const params = stores(shapes, "p"), gradients = stores(shapes, "g"), n = sizeOf(shapes);
  const tasks = optimizers.map(({ name, make, bytes }) => {
    const bound = make().for(params), step = compile(() => bound.step(gradients).gradNorm);
    const from = zeroStore([(n * bytes) / 8], "f32", "from"), to = zeroStore([(n * bytes) / 8], "f32", "to"), one = zeroStore([], "f32", "one");
    const copy = compile(() => { assign([to, one], [from.mul(1), one.add(1)]); return one.add(0); });
    return { name, bytes: n * bytes, step: () => step(), copy: () => copy(), times: [] as number[], copies: [] as number[] };
  });
  for (const t of tasks) for (let i = 0; i < 3; i++) { await t.step().data(); await t.copy().data(); }
  for (let i = 0; i < rounds; i++) for (const t of tasks) { t.times.push(await time(t.step)); t.copies.push(await time(t.copy)); }
  for (const t of tasks) {
    const own = median(t.times), copied = median(t.copies), rate = (s: number): string => `${(t.bytes / s / 1e9).toFixed(1)} GB/s`;
    console.log(`${`${set}: ${t.name}`.padEnd(44)}${n.toLocaleString("en").padStart(12)}${`${(1000 * own).toFixed(2)} ms`.padStart(12)}${rate(own).padStart(12)}   ${((100 * copied) / own).toFixed(0)} % (${rate(copied)})`);
  }
}
process.exit(0);
