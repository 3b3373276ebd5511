/** Our side of the speed benchmark: a process that runs the tasks on the wasm backend when the harness says so. */
import { setFlagsFromString } from "node:v8";
import { type Kernel, type Store, assign, bytesMoved, compile, explain, fromHost, operationsOf, setDevice, store, tensor, zeroStore } from "@adjoint/tensor";
import { wasm } from "@adjoint/wasm";
import { type Info, type Task, serve } from "../rivals/child.mjs";
import { numbers, products, readDump } from "../rivals/dump.mjs";
import { gpt, trainStep } from "./gpt.ts";
import { loraGpt } from "./gpt-lora.ts";
import { peak } from "./peak.ts";

const threads = Number(process.argv[2] ?? "1"), wide = process.argv[3] === "wide";
if (wide) {
  if (Number(process.versions.node.split(".")[0]) < 24) throw new Error("the 256-bit path needs Node 24 or newer");
  setFlagsFromString("--experimental-wasm-revectorize");
}
const device = setDevice(await wasm({ threads, wide }));
const { fma, mr, nr } = await tileOf();

/** The tile is a property of the backend that `Backend` does not have. */
async function tileOf(): Promise<{ fma: boolean; mr: number; nr: number }> {
  const t: unknown = "tile" in device ? device.tile : null;
  if (typeof t !== "object" || t === null || !("fma" in t && "mr" in t && "nr" in t)) throw new Error("the wasm backend names no tile");
  return Promise.resolve({ fma: t.fma === true, mr: Number(t.mr), nr: Number(t.nr) });
}

const training = (adapters: boolean) => (folder: string): Task => {
  const { sizes, rate, decay, ids, labels, weights } = readDump(folder);
  const model = gpt(sizes), shape = [sizes.batch, sizes.length];
  for (const [name, { shape: s, data }] of weights) model.parameters[name].set({ dtype: "f32", shape: s, data });
  const tuned = adapters ? loraGpt(sizes, model) : model;
  const recorded = trainStep(tuned, rate, decay), step = compile(recorded), x = tensor(ids, { shape }), y = tensor(labels, { shape });
  // the first step runs as it is recorded, so that its plan can be looked at
  const warm = async (): Promise<Info> => {
    const loss = recorded(x, y), { plan } = explain(loss), losses = [await loss.item()];
    for (let i = 0; i < 2; i++) losses.push(await step(x, y).item());
    const sum = (f: (k: Kernel) => number): number => plan.kernels.reduce((n, k) => n + f(k), 0);
    return { losses, kernels: plan.kernels.length, productFlops: sum((k) => (k.kind === "contract" ? operationsOf(k) : 0)), bytesMoved: sum((k) => bytesMoved(k, plan)), arenaBytes: plan.arenaBytes };
  };
  return { warm, run: async () => { await step(x, y).data(); } };
};

const product = ([m, k, n]: readonly [number, number, number]) => (): Task => {
  const matrix = (rows: number, columns: number, seed: number): Store => store(fromHost({ dtype: "f32", shape: [rows, columns], data: numbers(rows * columns, seed) }));
  const a = matrix(m, k, 1), b = matrix(k, n, 2), c = zeroStore([m, n]);
  const multiply = compile(() => { assign([c], [a.matmul(b)]); });
  const warm = async (): Promise<Info> => {
    for (let i = 0; i < 10; i++) multiply();
    const out = await c.data();
    return { first: out[0], last: out[out.length - 1] };
  };
  return { warm, run: multiply };
};

const top = async (): Promise<Task> => {
  const p = await peak({ threads, fma, wide });
  return { warm: () => ({ flops: p.flops }), run: p.run, end: p.end };
};

serve(
  { name: "adjoint", version: "0.1.0", note: `wasm, ${threads} threads, tile ${mr}x${nr}${fma ? ", fused multiply-add" : ""}${wide ? ", 256-bit" : ""}`, close: async () => device.close?.() },
  { gpt: training(false), "gpt-lora": training(true), ...Object.fromEntries(Object.entries(products).map(([name, shape]) => [name, product(shape)])), peak: top },
);
