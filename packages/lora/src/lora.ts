/** `lora(model, options)`: an adapter beside a frozen model, new or from PEFT's files. */
import { assign, ConfigError, convertArray, flatten, FormatError, type HostArray, hostArray, sizeOf, type Store, store, Tensor } from "@adjoint/tensor";
import type { Factors, Role } from "./adapter.ts";
import { type Attachment, keyOf } from "./attachments.ts";
import { type LoraConfig, loraConfig, type LoraOptions } from "./config.ts";
import { methodOf } from "./methods.ts";
import { type Adaptable, adaptableModules, moduleInfos, parametersOf } from "./modules.ts";
import { type AdapterDirectory, expectedTensors, type LoadedTensors, type LoadReport, matchTensors, readAdapterDirectory } from "./peft.ts";
import { describeTargets, type TargetTable } from "./targets.ts";
import { Tuned } from "./tuned.ts";

/** Options of a new adapter: PEFT's, the seed of its initial numbers, and the model type when the model does not say. */
export interface NewLoraOptions extends LoraOptions {
  readonly seed?: number;
  readonly modelType?: string | null;
}

const isTensor = (x: unknown): x is Tensor => x instanceof Tensor;

/** model_type of a model that carries its config, in either spelling. */
function modelTypeOf(model: object): string | null {
  const config: unknown = "config" in model ? model.config : null;
  if (typeof config !== "object" || config === null) return null;
  const named: unknown = "modelType" in config ? config.modelType : "model_type" in config ? config.model_type : null;
  return typeof named === "string" ? named : null;
}

/** Modules that a config chooses, each with its method, before any tensor exists. */
export interface Plan {
  readonly table: TargetTable;
  readonly chosen: readonly Pick<Attachment, "site" | "module" | "method">[];
}

/** What an adapter of this config would sit on. @throws ConfigError when nothing matches or something matches that cannot be adapted */
export function planLora(model: object, config: LoraConfig, modelType: string | null = modelTypeOf(model)): Plan {
  const infos = moduleInfos(model);
  if (!infos.some((m) => m.kind !== "other")) {
    throw new ConfigError("the model has no linear layer and no embedding to adapt", { op: "lora", fix: "pass a model built from Linear and Embedding of @adjoint/nn" });
  }
  const table = describeTargets(config, infos, modelType), modules = adaptableModules(model);
  return { table, chosen: table.targets.flatMap((site) => { const module = modules.get(site.path); return module === undefined ? [] : [{ site, module, method: methodOf(config, site.kind) }]; }) };
}

/** Factors are f32 whatever the base holds, and f64 beside an f64 base. */
function stored(array: HostArray, name: string, module: object): Store {
  const { shape } = array, wide = Object.values(parametersOf(module)).some((p) => p.dtype === "f64");
  return store(wide ? { dtype: "f64", shape, data: convertArray(array.data, array.dtype, "f64") } : array, name).usedAs("adapter");
}

/** A store that takes this value when it is first needed. */
function recorded(value: Tensor, name: string): Store {
  const { dtype, shape } = value, s = store({ dtype, shape, data: hostArray(dtype, sizeOf(shape)) }, name);
  assign([s], [value]);
  return s;
}

/** An adapter of these initial numbers beside a model. `fresh`: the method's own start from the frozen weight replaces what it has one for. */
export function attachLora<M extends object>(model: M, config: LoraConfig, { table, chosen }: Plan, initial: (a: Plan["chosen"][number]) => Readonly<Record<Role, HostArray>>, fresh: boolean): Tuned<M> {
  const attachments = chosen.map(({ site, module, method }): Attachment => {
    const first = initial({ site, module, method }), frozen = parametersOf(module), name = (role: Role): string => keyOf({ site, method }, role);
    const factors: Record<Role, Store> = Object.fromEntries(Object.keys(method.shapes(site, config)).map((role) => [role, stored(first[role], name(role), module)]));
    const beside = Object.fromEntries(Object.entries(method.constants?.(site, frozen) ?? {}).map(([role, value]) => [role, recorded(value, `${site.path}.${role}`)]));
    if (fresh) for (const [role, value] of Object.entries(method.start?.({ ...beside, ...factors } satisfies Factors, site, frozen) ?? {})) assign([factors[role]], [value]);
    return { site, module, method, factors, beside };
  });
  const { paths, leaves } = flatten(model, isTensor);
  return new Tuned({ base: model, config, table, attachments, weights: paths.map((path, i) => ({ path, store: leaves[i] })) });
}

/**
 * Puts a new adapter beside a model: y = W x + s B A x in every target, with s = alpha / r (LoRA) or alpha / sqrt(r) (rsLoRA).
 * The model stays as it is; what trains is `tuned.adapter`.
 * Throws ConfigError for options that are unknown, bad, contradictory or not implemented, and when no module matches.
 * @example const tuned = lora(model, { r: 16, loraAlpha: 16, useRslora: true, targetModules: "all-linear", seed: 42 });
 */
export function lora<M extends object>(model: M, options: NewLoraOptions = {}): Tuned<M> {
  const { seed = 0, modelType = modelTypeOf(model), ...rest } = options;
  const config = loraConfig({ taskType: "CAUSAL_LM", ...rest });
  return attachLora(model, config, planLora(model, config, modelType), ({ site, method }) => method.init(site, config, seed), true);
}

/** An adapter from files, and what was found while it was read. */
export interface LoadedLora<M> {
  readonly tuned: Tuned<M>;
  readonly report: LoadReport;
}

/** The base weights that PEFT saves beside an adapted embedding must be the model's own. */
async function checkBase(base: LoadedTensors["base"], modules: ReadonlyMap<string, Adaptable>, file: string): Promise<void> {
  for (const [path, saved] of base) {
    const weight = modules.get(path)?.weight;
    if (weight === undefined) continue;
    const own = await weight.data();
    const theirs = convertArray(saved.data, saved.dtype, "f32");
    if (own.length !== theirs.length || theirs.some((v, i) => v !== own[i])) {
      throw new FormatError(`${file}: the saved weight of ${path} differs from the model's`, {
        file,
        key: `${path}.base_layer.weight`,
        value: saved.shape,
        fix: "load the adapter onto the base model that it was saved with (its embeddings were trained or resized)",
      });
    }
  }
}

/**
 * Puts an adapter that PEFT or `tuned.save` wrote beside a model; strict unless asked otherwise.
 * Throws FormatError with every missing, unexpected and misshapen tensor, and ConfigError for variants that are not implemented.
 */
export async function loadLora<M extends object>(model: M, from: string | AdapterDirectory, options: { readonly strict?: boolean; readonly modelType?: string | null } = {}): Promise<LoadedLora<M>> {
  const { config, warnings, tensors, file } = typeof from === "string" ? await readAdapterDirectory(from) : from;
  const own = { ...config, inferenceMode: false }, plan = planLora(model, own, options.modelType ?? modelTypeOf(model));
  const { factors, base, report } = matchTensors(tensors, expectedTensors(plan.chosen, own), { file, strict: options.strict ?? true });
  await checkBase(base, adaptableModules(model), file);
  const tuned = attachLora(model, own, plan, ({ site, method }) => {
    const fresh = method.init(site, own, 0); // stands in for what a loose load does not find
    return Object.fromEntries(Object.keys(fresh).map((role) => [role, factors.get(keyOf({ site, method }, role)) ?? fresh[role]]));
  }, false);
  return { tuned, report: { ...report, warnings: [...warnings, ...plan.table.warnings, ...report.warnings] } };
}
