/** Our side of the speed benchmark: a process that runs the tasks on the wasm backend when the harness says so. */
import { setFlagsFromString } from "node:v8";
import { type Store, assign, compile, fromHost, memory, setDevice, store, tensor, zeroStore } from "@adjoint/tensor";
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
  const step = compile(trainStep(tuned, rate, decay)), x = tensor(ids, { shape }), y = tensor(labels, { shape });
  // compile is done with the first call; counters must not move from the third step on
  const warm = async (): Promise<Info> => {
    const losses: number[] = [];
    for (let i = 0; i < 3; i++) losses.push(await step(x, y).item());
    const { arenaBytes, bufferBytes, plans, modules, kernels } = memory();
    const loss = step(x, y);
    await loss.item();
    return { losses, kernels: memory().kernels - kernels, plans, modules, arena: arenaBytes, buffers: bufferBytes };
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
