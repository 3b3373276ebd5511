/** `lora(model, options)`: an adapter beside a frozen model, new or from PEFT's files. */
import { assign, ConfigError, convertArray, flatten, flushAll, FormatError, type HostArray, hostArray, sizeOf, type Store, store, Tensor } from "@adjoint/tensor";
import type { Factors, Role, Site } from "./adapter.ts";
import { unpackedRanks } from "./methods/adalora.ts";
import { refuseAdapted } from "./adapted-model.ts";
import { type Attachment, keyOf } from "./attachments.ts";
import { type LoraConfig, loraConfig, type LoraOptions } from "./config/config.ts";
import { needsNumbers } from "./initial/names.ts";
import { firstFactors } from "./initial/restore.ts";
import type { KeyMapping } from "./files/key-mapping.ts";
import { methodOf } from "./methods/methods.ts";
import { adaptableModules, moduleInfos, moduleOf, parametersOf } from "./targets/modules.ts";
import { type AdapterDirectory, echoedNames, expectedTensors, type LoadReport, matchTensors, readAdapterDirectory } from "./files/peft.ts";
import { withInferredTargets } from "./files/inferred-targets.ts";
import { checkCopies, differingBase } from "./files/saved-along.ts";
import { describeTargets, type TargetTable } from "./targets/targets.ts";
import { Tuned } from "./tuned.ts";

/** Options of a new adapter: PEFT's, the seed of its initial numbers, and the model type when the model does not say. */
export interface NewLoraOptions extends LoraOptions {
  readonly seed?: number;
  readonly modelType?: string | null;
}

const isTensor = (x: unknown): x is Tensor => x instanceof Tensor;

/** model_type of a model that carries its config, in either spelling. */
export function modelTypeOf(model: object): string | null {
  const config: unknown = "config" in model ? model.config : null;
  if (typeof config !== "object" || config === null) return null;
  const named: unknown = "modelType" in config ? config.modelType : "model_type" in config ? config.model_type : null;
  return typeof named === "string" ? named : null;
}

/** Modules that a config chooses, each with its method, before any tensor exists. */
export interface Plan {
  readonly table: TargetTable;
  readonly chosen: readonly Chosen[];
}

/** One method on one module. `shares`: it has no tensors of its own, but all of those of another attachment, which comes earlier. */
export interface Chosen extends Pick<Attachment, "site" | "module" | "method"> {
  readonly shares?: { readonly path: string; readonly method: string };
}

/** What an adapter of this config would sit on. @throws ConfigError when nothing matches or something matches that cannot be adapted */
export function planLora(model: object, config: LoraConfig, modelType: string | null = modelTypeOf(model), origin: "new" | "file" = "new"): Plan {
  refuseAdapted("lora", model);
  const infos = moduleInfos(model);
  if (!infos.some((m) => m.kind !== "other")) {
    throw new ConfigError("the model has no linear layer and no embedding to adapt", { op: "lora", fix: "pass a model built from Linear and Embedding of @adjoint/nn" });
  }
  const table = describeTargets(config, infos, modelType, origin), modules = adaptableModules(model);
  const at = <C extends { readonly site: Site }>(list: readonly C[], method: (c: C) => Omit<Chosen, "site" | "module">): readonly Chosen[] =>
    list.flatMap((c) => { const module = modules.get(moduleOf(c.site)); return module === undefined ? [] : [{ site: c.site, module, ...method(c) }]; });
  const adapted = at(table.targets.map((site) => ({ site })), ({ site }) => ({ method: methodOf(config, site.kind) }));
  const beside = at(table.beside, ({ method, shares }) => ({ method, ...(shares === undefined ? {} : { shares }) }));
  // a trained bias takes the place of the base's, so that a bias on B is merged on top of it; DoRA takes the base's out of the output first
  return { table, chosen: config.loraBias ? [...beside, ...adapted] : [...adapted, ...beside] };
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

/** An adapter of these initial numbers beside a model: roles that train, and others (first factors, MiCA's B) that stand beside them. `fresh`: the method's own start from the frozen weight replaces what it has one for. */
export function attachLora<M extends object>(model: M, config: LoraConfig, { table, chosen }: Plan, initial: (a: Chosen) => Readonly<Record<Role, HostArray>>, fresh: boolean | ((a: Chosen, role: Role) => boolean)): Tuned<M> {
  const attachments: Attachment[] = [], common = new Map<HostArray, Store>();
  /** one tensor for what several modules are given as one array */
  const placed = (array: HostArray, name: string, module: object): Store => {
    const s = common.get(array) ?? stored(array, name, module);
    common.set(array, s);
    return s;
  };
  for (const a of chosen) {
    const { site, module, method } = a;
    if (a.shares !== undefined) {
      const { path, method: other } = a.shares, owner = attachments.find((o) => o.site.path === path && o.method.name === other);
      if (owner === undefined) throw new ConfigError(`${site.path} and ${path} share one weight, and this kind of adapter cannot be tied`, { key: "ensure_weight_tying", value: true, fix: "set ensureWeightTying: false, or use plain LoRA there" });
      attachments.push({ site, module, method, factors: {}, beside: { ...owner.beside, ...owner.factors } });
      continue;
    }
    const first = initial({ site, module, method }), frozen = parametersOf(module), name = (role: Role): string => keyOf({ site, method }, role);
    const factors: Record<Role, Store> = Object.fromEntries(Object.keys(method.shapes(site, config)).map((role) => [role, stored(first[role], name(role), module)]));
    const constants = Object.entries(method.constants?.(site, frozen) ?? {}).map(([role, value]) => [role, recorded(value, `${site.path}.${role}`)] as const);
    const given = Object.entries(first).filter(([role]) => !Object.hasOwn(factors, role)).map(([role, value]) => [role, placed(value, `${site.path}.${role}`, module)] as const);
    const beside = Object.fromEntries([...constants, ...given]);
    for (const [role, value] of Object.entries(method.start?.({ ...beside, ...factors } satisfies Factors, site, frozen) ?? {})) {
      if (typeof fresh === "boolean" ? fresh : fresh(a, role)) assign([factors[role]], [value]);
    }
    attachments.push({ site, module, method, factors, beside });
  }
  if (attachments.some(({ method }) => method.constants !== undefined || method.start !== undefined)) flushAll(); // they read the weights of now
  const { paths, leaves } = flatten(model, isTensor);
  return new Tuned({ base: model, config, table, attachments, weights: paths.map((path, i) => ({ path, store: leaves[i] })) });
}

/**
 * Puts a new adapter beside a model: y = W x + s B A x in every target, with s = alpha / r (LoRA) or alpha / sqrt(r) (rsLoRA).
 * The model stays as it is; what trains is `tuned.adapter`.
 * Throws ConfigError for options that are unknown, bad, contradictory or not implemented, for initialisations that look at the model's numbers
 * (`await createLora` makes those), and when no module matches.
 * @example const tuned = lora(model, { r: 16, loraAlpha: 16, useRslora: true, targetModules: "all-linear", seed: 42 });
 */
export function lora<M extends object>(model: M, options: NewLoraOptions = {}): Tuned<M> {
  const { seed = 0, modelType = modelTypeOf(model), ...rest } = options;
  const config = loraConfig({ taskType: "CAUSAL_LM", ...rest });
  if (needsNumbers(config.initLoraWeights)) {
    throw new ConfigError(`initLoraWeights = ${JSON.stringify(config.initLoraWeights)} is computed from numbers of the model, and lora reads none`, { op: "lora", key: "initLoraWeights", value: config.initLoraWeights, fix: "const tuned = await createLora(model, options, data)" });
  }
  return attachLora(model, config, planLora(model, config, modelType), ({ site, method }) => method.init(site, config, seed), true);
}

/** An adapter from files, and what was found while it was read. */
export interface LoadedLora<M> {
  readonly tuned: Tuned<M>;
  readonly report: LoadReport;
}

/** A file's tensors as the modules here have them. @throws FormatError for VeRA's projections, where a file leaves them to torch's generator */
function kindTensors(config: LoraConfig, tensors: AdapterDirectory["tensors"], file: string): AdapterDirectory["tensors"] {
  if (config.vera !== null && !tensors.has("base_model.vera_A")) {
    throw new FormatError(`${file}: VeRA's projections are not in it, and only torch's generator draws them from projection_prng_key`, { file, key: "save_projection", value: config.vera.saveProjection, fix: "load it in PEFT and save it again with save_projection=True" });
  }
  return unpackedRanks(config, tensors);
}

/** How a directory is read. */
export interface LoadOptions {
  /** false: take what fits, and say in the report what does not */
  readonly strict?: boolean;
  readonly modelType?: string | null;
  /** where the file holds other weights of the embedding or the head than the model: "check" (default) refuses, "use" lets them stand, frozen, in place of the model's while the adapter is on */
  readonly savedEmbeddings?: "check" | "use";
  /** names of the file as this model has them: expression -> replacement, as PEFT's key_mapping */
  readonly keyMapping?: KeyMapping;
}

/**
 * Puts an adapter that PEFT or `tuned.save` wrote beside a model; strict unless asked otherwise.
 * Throws FormatError with every missing, unexpected and misshapen tensor, and ConfigError for variants that are not implemented.
 */
export async function loadLora<M extends object>(model: M, from: string | AdapterDirectory, options: LoadOptions = {}): Promise<LoadedLora<M>> {
  const { config, warnings, tensors, file, origin = new Map() } = typeof from === "string" ? await readAdapterDirectory(from) : from;
  const { strict = true, keyMapping } = options, { config: own, warnings: inferred } = withInferredTargets({ ...config, inferenceMode: false }, tensors, moduleInfos(model), file, keyMapping);
  const plan = planLora(model, own, options.modelType ?? modelTypeOf(model), "file"), embeddings = moduleInfos(model).flatMap((m) => (m.kind === "embedding" || m.isOutputHead === true ? [m.path] : []));
  const { factors, base, echoes, report } = matchTensors(kindTensors(own, tensors, file), expectedTensors(plan.chosen, own), { file, strict, embeddings, echoes: echoedNames(plan.chosen), ...(keyMapping === undefined ? {} : { keyMapping }) });
  const targets = new Set(plan.table.targets), first = await firstFactors(model, own, plan.chosen.filter(({ site }) => targets.has(site)), origin, file);
  const others = options.savedEmbeddings === "use" ? await differingBase(model, base, adaptableModules(model), own) : [], saved = new Map(others.map(({ chosen, weight }) => [chosen.site, weight]));
  const tuned = attachLora(model, own, { ...plan, chosen: [...others.map((o) => o.chosen), ...plan.chosen] }, ({ site, method }): Readonly<Record<Role, HostArray>> => {
    const weight = saved.get(site);
    if (weight !== undefined) return { weight };
    const fresh = method.init(site, own, 0); // stands in for what a loose load does not find
    return { ...(targets.has(site) ? first.get(site.path) : undefined), ...Object.fromEntries(Object.keys(fresh).map((role) => [role, factors.get(keyOf({ site, method }, role)) ?? fresh[role]])) };
  }, (a, role) => !factors.has(keyOf(a, role)));
  await checkCopies(model, { base: new Map([...base].filter(([name]) => !others.some((o) => `${o.chosen.site.path}.weight` === name))), echoes, file }, tuned.attachments, adaptableModules(model));
  return { tuned, report: { ...report, warnings: [...warnings, ...inferred, ...plan.table.warnings, ...report.warnings] } };
}
