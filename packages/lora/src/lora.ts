/** `lora(model, options)`: an adapter beside a frozen model, new or from PEFT's files. */
import { ConfigError, convertArray, flatten, FormatError, type HostArray, type Store, store, Tensor } from "@adjoint/tensor";
import type { Site } from "./adapter.ts";
import { type LoraConfig, loraConfig, type LoraOptions } from "./config.ts";
import { lowRank } from "./low-rank.ts";
import { type Adaptable, adaptableModules, moduleInfos } from "./modules.ts";
import { factorKey, type Role } from "./peft-keys.ts";
import { type AdapterDirectory, expectedTensors, type LoadedTensors, type LoadReport, matchTensors, readAdapterDirectory } from "./peft.ts";
import { describeTargets, type ModuleInfo, type TargetTable } from "./targets.ts";
import { type Attachment, Tuned } from "./tuned.ts";

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

interface Prepared {
  readonly infos: readonly ModuleInfo[];
  readonly table: TargetTable;
  readonly sites: readonly { readonly site: Site; readonly module: Adaptable }[];
}

function prepare(model: object, config: LoraConfig, modelType: string | null): Prepared {
  const infos = moduleInfos(model);
  if (!infos.some((m) => m.kind !== "other")) {
    throw new ConfigError("the model has no linear layer and no embedding to adapt", { op: "lora", fix: "pass a model built from Linear and Embedding of @adjoint/nn" });
  }
  const table = describeTargets(config, infos, modelType);
  const modules = adaptableModules(model);
  const sizes = new Map(infos.map((m) => [m.path, m]));
  const sites = table.targets.flatMap((t) => {
    const module = modules.get(t.path);
    const info = sizes.get(t.path);
    return module === undefined || info === undefined ? [] : [{ module, site: { ...t, inFeatures: info.inFeatures ?? 0, outFeatures: info.outFeatures ?? 0 } }];
  });
  return { infos, table, sites };
}

/** Factors are f32 whatever the base holds, and f64 beside an f64 base. */
function stored(array: HostArray, name: string, module: Adaptable): Store {
  const { shape } = array;
  return store(module.weight.dtype === "f64" ? { dtype: "f64", shape, data: convertArray(array.data, array.dtype, "f64") } : array, name).usedAs("adapter");
}

function attach<M extends object>(model: M, config: LoraConfig, { table, sites }: Prepared, initial: (site: Site) => Readonly<Record<Role, HostArray>>): Tuned<M> {
  const attachments = sites.map(({ site, module }): Attachment => {
    const first = initial(site);
    const factor = (role: Role): Store => stored(first[role], factorKey(site.path, role, site.kind), module);
    return { site, module, factors: { A: factor("A"), B: factor("B") } };
  });
  const { paths, leaves } = flatten(model, isTensor);
  return new Tuned({ base: model, method: lowRank, config, table, attachments, weights: paths.map((path, i) => ({ path, store: leaves[i] })) });
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
  return attach(model, config, prepare(model, config, modelType), (site) => lowRank.init(site, config, seed));
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
  const own = { ...config, inferenceMode: false };
  const prepared = prepare(model, own, options.modelType ?? modelTypeOf(model));
  const { factors, base, report } = matchTensors(tensors, expectedTensors(prepared.table.targets, prepared.infos), { file, strict: options.strict ?? true });
  await checkBase(base, adaptableModules(model), file);
  const tuned = attach(model, own, prepared, (site) => {
    const fresh = lowRank.init(site, own, 0); // stands in for what a loose load does not find
    const read = (role: Role): HostArray => factors.get(factorKey(site.path, role, site.kind)) ?? fresh[role];
    return { A: read("A"), B: read("B") };
  });
  return { tuned, report: { ...report, warnings: [...warnings, ...prepared.table.warnings, ...report.warnings] } };
}
