/** The modules of a model as its config alone gives them: paths, kinds and shapes, in the order of the forward pass. */
import { Conv1D, Embedding, LayerNorm, Linear, RMSNorm } from "@adjoint/nn";
import { ConfigError, Store, type Tensor } from "@adjoint/tensor";
import type { CausalLM, ModuleEntry } from "./causal-lm.ts";

/** One module: what its weights look like. */
export interface ModuleShape {
  readonly path: string;
  readonly kind: ModuleEntry["kind"];
  /** [out, in] of linear, [in, out] of conv1d, [rows, width] of an embedding, [width] of a norm */
  readonly weight: readonly number[];
  readonly bias: readonly number[] | null;
  readonly isOutputHead: boolean;
  /** the weight is the input embedding's, not one of its own */
  readonly tied: boolean;
}

const part = (kind: ModuleShape["kind"], path: string, weight: readonly number[], bias: readonly number[] | null = null): ModuleShape => ({ path, kind, weight, bias, isOutputHead: false, tied: false });
export const embeddingShape = (path: string, rows: number, width: number): ModuleShape => part("embedding", path, [rows, width]);
export const linearShape = (path: string, out: number, from: number, bias: boolean): ModuleShape => part("linear", path, [out, from], bias ? [out] : null);
export const conv1dShape = (path: string, from: number, out: number): ModuleShape => part("conv1d", path, [from, out], [out]);
export const normShape = (path: string, width: number, bias = false): ModuleShape => part("norm", path, [width], bias ? [width] : null);
export const headShape = (path: string, vocabulary: number, width: number, tied: boolean): ModuleShape => ({ ...part("linear", path, [vocabulary, width]), isOutputHead: true, tied });

/** Names and shapes of all parameters of these modules. */
export function shapesOf(modules: readonly ModuleShape[]): ReadonlyMap<string, readonly number[]> {
  return new Map(modules.filter((m) => !m.tied).flatMap(({ path, weight, bias }) => [[`${path}.weight`, weight] as const, ...(bias ? [[`${path}.bias`, bias] as const] : [])]));
}

/** The modules of a model, found by their paths among its fields. */
export function modulesAt(model: object, modules: readonly ModuleShape[]): readonly ModuleEntry[] {
  return modules.map(({ path, kind, isOutputHead }): ModuleEntry => {
    const module = path.split(".").reduce<unknown>((at, key) => (typeof at === "object" && at !== null ? (Reflect.get(at, key) as unknown) : undefined), model);
    if (kind === "linear" && module instanceof Linear) return { path, kind, module, isOutputHead };
    if (kind === "conv1d" && module instanceof Conv1D) return { path, kind, module, isOutputHead };
    if (kind === "embedding" && module instanceof Embedding) return { path, kind, module, isOutputHead };
    if (kind === "norm" && (module instanceof RMSNorm || module instanceof LayerNorm)) return { path, kind, module, isOutputHead };
    throw new ConfigError(`${path} is no ${kind} of the model`, { op: "modules", key: path, fix: "this is a defect of adjoint" });
  });
}

/** Every weight by its name in the file; a tied head is not a second one. */
export function weightsOf(model: Pick<CausalLM, "modules" | "config">): Readonly<Record<string, Tensor>> {
  const found: Record<string, Tensor> = {};
  for (const { path, module, isOutputHead } of model.modules()) {
    if (isOutputHead && model.config.tieWordEmbeddings) continue;
    found[`${path}.weight`] = module.weight;
    if ("bias" in module && module.bias) found[`${path}.bias`] = module.bias;
  }
  return found;
}
/** The stores among weights: what can train. */
export const storesOf = (weights: Readonly<Record<string, Tensor>>): Readonly<Record<string, Store>> =>
  Object.fromEntries(Object.entries(weights).filter((entry): entry is [string, Store] => entry[1] instanceof Store));

/** Gives a parameter: a store, or for the weight of a linear layer a tensor of codes. */
export type Take = (name: string) => Tensor;
/** A parameter that must be a store. */
export function cell(take: Take, name: string): Store {
  const t = take(name);
  if (t instanceof Store) return t;
  throw new ConfigError(`${name} is quantized; only the weights of linear layers can be`, { key: name, fix: "decode it while loading" });
}
