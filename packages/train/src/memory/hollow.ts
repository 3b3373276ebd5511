/** A model and an adapter without numbers: modules, methods, shapes and names are those of real ones, so that what they hold can be counted and their steps planned. */
import { type Attachment, keepsOrigin, keyOf, type LoraConfig, loraConfig, type LoraOptions, parametersOf, planLora, type Shapes, type Site, Tuned } from "@adjoint/lora";
import { buildModel, type CausalLM, type ModelConfig, parameterShapes } from "@adjoint/models";
import { type DType, hostArray, internal, type Shape, Store } from "@adjoint/tensor";

const hollowStore = (shape: Shape, name: string, dtype: DType = "f32"): Store => new Store({ dtype, shape, data: hostArray(dtype, 0) }, name);

/** The model of a config; its stores hold no numbers. */
export function hollowModel(config: ModelConfig, dtype: DType): CausalLM {
  const shapes = parameterShapes(config);
  return buildModel(config, (name) => hollowStore(shapes.get(name) ?? [], name, dtype));
}

/** What an initialisation or a kind puts beside the factors of a target: first factors that were taken out of the layer, AdaLoRA's mask. */
function given({ method, site }: Pick<Attachment, "method" | "site">, config: LoraConfig): Shapes {
  const { A, B } = method.shapes(site, config);
  return { ...(keepsOrigin(config.initLoraWeights) && A !== undefined && B !== undefined ? { A0: A, B0: B } : {}), ...(config.adalora === null ? {} : { mask: [site.r, 1] }) };
}

/** An adapter beside a model, whose tensors hold no numbers. @throws ConfigError for options that cannot be, and where nothing matches */
export function hollowAdapter(model: CausalLM, options: LoraOptions): Tuned<CausalLM> {
  const config = loraConfig({ taskType: "CAUSAL_LM", ...options }), { table, chosen } = planLora(model, config), targets = new Set<Site>(table.targets), shared = new Map<string, Store>(), attachments: Attachment[] = [];
  const stores = (shapes: Shapes, path: string): Record<string, Store> => Object.fromEntries(Object.entries(shapes).map(([role, shape]) => [role, hollowStore(shape, `${path}.${role}`)]));
  /** tensors that are in the file without training; what several modules name alike is one (VeRA's projections) */
  const once = (a: Pick<Attachment, "site" | "method">, role: string, shape: Shape): Store => {
    const key = keyOf(a, role), s = shared.get(key) ?? hollowStore(shape, key);
    shared.set(key, s);
    return s;
  };
  for (const { site, module, method, shares } of chosen) {
    const owner = shares === undefined ? undefined : attachments.find((o) => o.site.path === shares.path && o.method.name === shares.method);
    if (owner !== undefined) {
      attachments.push({ site, module, method, factors: {}, beside: { ...owner.beside, ...owner.factors } });
      continue;
    }
    const constants = Object.entries(internal(() => method.constants?.(site, parametersOf(module)) ?? {})).map(([role, t]) => [role, hollowStore(t.shape, `${site.path}.${role}`, t.dtype)] as const);
    const fixed = Object.entries(method.fixed?.(site, config) ?? {}).map(([role, shape]) => [role, once({ site, method }, role, shape)] as const);
    attachments.push({ site, module, method, factors: stores(method.shapes(site, config), site.path), beside: { ...(targets.has(site) ? stores(given({ method, site }, config), site.path) : {}), ...Object.fromEntries([...constants, ...fixed]) } });
  }
  return new Tuned({ base: model, config, table, attachments, weights: [] });
}

/** The tensors of an adapter: those that train with what each is for, those that stand beside them, and how many numbers the run itself remembers (AdaLoRA's importance). */
export interface Held {
  readonly trains: readonly { readonly role: string; readonly shape: Shape; readonly path: string }[];
  readonly beside: readonly { readonly role: string; readonly shape: Shape }[];
  readonly remembered: number;
}
export function heldBy(tuned: Tuned<CausalLM>): Held {
  const trains: { role: string; shape: Shape; path: string; store: Store }[] = [], beside = new Map<Store, { role: string; shape: Shape }>();
  let remembered = 0;
  for (const { factors, beside: own = {}, method, site } of tuned.attachments) {
    for (const [role, s] of Object.entries(factors)) trains.push({ role, shape: s.shape, path: keyOf({ site, method }, role), store: s });
    for (const [role, s] of Object.entries(own)) beside.set(s, { role, shape: s.shape });
    if (method.name === "adalora") for (const s of Object.values(factors)) remembered += 2 * s.size;
  }
  for (const { store } of trains) beside.delete(store);
  return { trains, beside: [...beside.values()], remembered };
}

/** Whether the adapter is the same in each of the model's layers, so that a few of them tell of all. */
export function isUniform(tuned: Tuned<CausalLM>, layers: number): boolean {
  const counts = new Map<string, number>(), numbered = /\.\d+\./;
  for (const { site, method } of tuned.attachments) if (numbered.test(site.path)) { const key = `${site.path.replace(numbered, ".#.")} ${method.name} ${site.r}`; counts.set(key, (counts.get(key) ?? 0) + 1); }
  return [...counts.values()].every((n) => n === layers);
}
