/** What the layers of a model are given: an adapter that changes nothing and remembers the inputs. */
import type { Context, ModuleAdapter } from "@adjoint/nn";
import { scope, Tensor } from "@adjoint/tensor";
import { cannot, type InitialData, type Place, type Setting } from "./initial.ts";

class Watcher implements ModuleAdapter {
  readonly inputs: Map<object, Tensor[]> = new Map();
  readonly #wanted: ReadonlySet<object>;
  constructor(wanted: ReadonlySet<object>) {
    this.#wanted = wanted;
  }
  output(module: object, x: Tensor, y: Tensor): Tensor {
    if (this.#wanted.has(module)) this.inputs.set(module, [...(this.inputs.get(module) ?? []), x]);
    return y;
  }
}

/** The forward pass that `run` stands for by default. */
function runOf<B>({ model, data }: Setting<B>, init: string): NonNullable<InitialData<B>["run"]> {
  if (data.run !== undefined) return data.run;
  const loss: unknown = Reflect.get(model, "loss");
  if (typeof loss !== "function") throw cannot(init, "the model has no method loss(batch, context)", "pass data.run: (batch, context) => model.forward(...)", { key: "run" });
  return (batch, context): unknown => Reflect.apply(loss, model, [batch, context]);
}

/** The inputs of layers in one pass over a batch, in the order of calls, recorded and not computed; layers that are given the same tensor share it. */
export function recordedInputs<B>(setting: Setting<B>, init: string, places: readonly Place[], batch: B): ReadonlyMap<object, readonly Tensor[]> {
  const watcher = new Watcher(new Set(places.map((p) => p.module))), context: Context = { adapter: watcher };
  runOf(setting, init)(batch, context);
  const silent = places.find((p) => !watcher.inputs.has(p.module));
  if (silent !== undefined) throw cannot(init, `${silent.site.path} is not used in a forward pass`, "pass data.run that uses every adapted layer and hands the context on", { key: "run", value: silent.site.path });
  return watcher.inputs;
}

/** `recordedInputs`, computed as one plan: batches of one shape share it. */
export function inputsOf<B>(setting: Setting<B>, init: string, places: readonly Place[], batch: B): ReadonlyMap<object, readonly Tensor[]> {
  const inputs = recordedInputs(setting, init, places, batch);
  scope(() => [...new Set([...inputs.values()].flat())]);
  return inputs;
}

/** Batches as a list, because they are gone through again and again. */
export async function batchesOf<B>({ data }: Setting<B>, init: string): Promise<readonly B[]> {
  const all: B[] = [];
  if (data.batches !== undefined) for await (const batch of data.batches) all.push(batch);
  if (all.length === 0) throw cannot(init, "it looks at activations, and there is no batch", "pass data.batches, such as a few batches of the training data", { key: "batches" });
  return all;
}

const field = (batch: unknown, name: string): Tensor | null => {
  const value: unknown = typeof batch === "object" && batch !== null ? Reflect.get(batch, name) : null;
  return value instanceof Tensor ? value : null;
};

/** Which rows of a batch's activations count, one number a token; null: all. */
export async function maskOf<B>({ data }: Setting<B>, batch: B, ignore: number | null): Promise<readonly boolean[] | null> {
  if (data.mask !== undefined) {
    const own = data.mask(batch);
    return own === null ? null : Array.from(await own.data(), (v) => Number(v) !== 0);
  }
  const attention = field(batch, "attentionMask"), labels = ignore === null ? null : field(batch, "labels");
  if (attention === null && labels === null) return null;
  const real = attention === null ? null : await attention.data(), wanted = labels === null ? null : await labels.data(), n = real?.length ?? wanted?.length ?? 0;
  return Array.from({ length: n }, (_, i) => (real === null || Number(real[i]) !== 0) && (wanted === null || Number(wanted[i]) !== ignore));
}

/** Throws unless a mask has one value for each of n rows. */
export function fitMask(init: string, mask: readonly boolean[], n: number, path: string): void {
  if (mask.length !== n) throw cannot(init, `the mask has ${mask.length} values, and the input of ${path} ${n} rows`, "pass data.mask with one value a row of activations, or null", { key: "mask", value: mask.length });
}
