/** `createLora(model, options, data)`: an adapter whose first numbers follow from the model's weights, activations or gradients. */
import { breathe, ConfigError, type HostArray, hostOf } from "@adjoint/tensor";
import type { Role } from "./adapter.ts";
import { type LoraConfig, loraConfig } from "./config/config.ts";
import { initialisationOf } from "./initial/index.ts";
import type { InitialData, Place, Start } from "./initial/initial.ts";
import { keepsOrigin } from "./initial/names.ts";
import { attachLora, lora, modelTypeOf, type NewLoraOptions, type Plan, planLora } from "./lora.ts";
import { methodOf } from "./methods/methods.ts";
import { originKey } from "./methods/origin.ts";
import type { Tuned } from "./tuned.ts";

/** Options of `createLora`: those of `lora`, and what concerns long work. */
export interface CreateLoraOptions extends NewLoraOptions {
  /** called after each module */
  readonly onModule?: (done: { readonly path: string; readonly index: number; readonly count: number }) => void;
  /** "peft": LoftQ's factors are not divided by the scale, as PEFT leaves them */
  readonly compat?: "peft";
}

type Initial = Readonly<Record<Role, HostArray>>;

/** What stands for a module's first factors: computed, or taken from `data.origin`. */
function arraysOf(config: LoraConfig, { A, B }: NonNullable<Start>): Initial {
  const [a, b] = [hostOf(A), hostOf(B)];
  return keepsOrigin(config.initLoraWeights) ? { A: a, B: b, A0: a, B0: b } : { A: a, B: b };
}

/** First factors as `tuned.origin()` named them. */
function fromOrigin(config: LoraConfig, places: readonly Place[], origin: ReadonlyMap<string, HostArray>): ReadonlyMap<string, Initial> {
  const rule = config.initLoraWeights, wrong = (problem: string, key: string): ConfigError => new ConfigError(`data.origin ${problem}`, { op: "createLora", key, value: rule, fix: "pass what tuned.origin() gave for this model and these options" });
  if (!keepsOrigin(rule)) throw wrong(`has no meaning with initLoraWeights = ${JSON.stringify(rule)}`, "origin");
  return new Map(places.map(({ site }) => {
    const [A, B] = (["A0", "B0"] as const).map((role, i) => {
      const key = originKey(site.path, role), found = origin.get(key), shape = i === 0 ? [site.r, site.inFeatures] : [site.outFeatures, site.r];
      if (found?.shape.join() !== shape.join()) throw wrong(found === undefined ? `lacks ${key}` : `holds ${key} as [${found.shape.join(", ")}], here it is [${shape.join(", ")}]`, key);
      return found;
    });
    return [site.path, { A, B, A0: A, B0: B }];
  }));
}

/** The modules that the config's own method adapts; what trains beside them starts by its own rule. */
const adapted = (config: LoraConfig, { chosen, table }: Plan): readonly Place[] => chosen.filter(({ site, method }) => table.targets.includes(site) && method === methodOf(config, site.kind));

/**
 * `lora` with every initialisation of PEFT: besides true, false and "gaussian" those that look at the model. The base is left alone (LoftQ alone
 * replaces its codes): PiSSA, OLoRA, CorDA and LoRA-GA keep what they take out of a layer beside A and B, so that the model computes at first what the
 * base computes, and `tuned.save` writes plain LoRA of twice the rank that fits the unchanged base.
 *
 * Matrices are decomposed in f64 on the host and rounded to f32 once; equal numbers and seeds give equal bits everywhere. Adapted linear layers only;
 * EVA starts others as `true` does.
 * @throws ConfigError as `lora`, for data that an initialisation needs and does not find, and for ranks that a weight does not have
 * @example const tuned = await createLora(model, { r: 16, loraAlpha: 16, targetModules: "all-linear", initLoraWeights: "pissa" });
 */
export async function createLora<M extends object, B = never>(model: M, options: CreateLoraOptions = {}, data: InitialData<B> = {}): Promise<Tuned<M>> {
  const { onModule, compat, ...plain } = options, { seed = 0, modelType = modelTypeOf(model), ...rest } = plain;
  let config = loraConfig({ taskType: "CAUSAL_LM", ...rest }), plan = planLora(model, config, modelType), initial: ReadonlyMap<string, Initial>;
  const init = initialisationOf(config.initLoraWeights);
  if (compat !== undefined && init?.name !== "loftq") throw new ConfigError('compat: "peft" changes LoftQ alone', { op: "createLora", key: "compat", value: compat, fix: 'leave it out, or use initLoraWeights: "loftq"' });
  if (init === null) return lora(model, plain);
  if (data.origin !== undefined) initial = fromOrigin(config, adapted(config, plan), data.origin);
  else {
    const begun = await init.begin({ model, config, seed, places: adapted(config, plan), data, compat: compat ?? null }), done = new Map<string, Initial>();
    if (begun.config !== undefined) {
      config = begun.config;
      plan = planLora(model, config, modelType);
    }
    const places = adapted(config, plan), count = places.length;
    for (const [index, place] of places.entries()) {
      const start = await begun.start(place);
      if (start !== null) done.set(place.site.path, arraysOf(config, start));
      onModule?.({ path: place.site.path, index, count });
      await breathe();
    }
    begun.commit?.();
    initial = done;
  }
  const ours = new Set(adapted(config, plan).map(({ site }) => site)), standard: LoraConfig = { ...config, initLoraWeights: true, evaConfig: null };
  return attachLora(model, config, plan, ({ site, method }) => ({ ...method.init(site, standard, seed), ...(ours.has(site) ? initial.get(site.path) : {}) }), true);
}
