/** What an initialisation is: a value that computes the first A and B of each module from numbers of the model. */
import type { Context } from "@adjoint/nn";
import { ConfigError, type HostArray, type Matrix, type Tensor } from "@adjoint/tensor";
import type { Site } from "../adapter.ts";
import type { LoraConfig } from "../config/config.ts";

/** One module that is to be adapted. */
export interface Place {
  readonly site: Site;
  readonly module: object;
  /** what to look at in place of the module's weight: the same without what is merged into it */
  readonly weight?: Tensor;
}

/** What an initialisation may ask for besides the weights of the model; each says in its own file which of these it needs. */
export interface InitialData<B = never> {
  /** batches whose activations count (EVA, CorDA); they are gone through more than once */
  readonly batches?: Iterable<B> | AsyncIterable<B>;
  /** one forward pass over a batch with this context; default `model.loss(batch, context)`. Nothing of it is computed but the inputs of adapted layers */
  readonly run?: (batch: B, context: Context) => unknown;
  /** which rows of activations count: nonzero where they do, one a token. Default: the batch's `attentionMask`, and for EVA its `labels` */
  readonly mask?: (batch: B) => Tensor | null;
  /** dL/dW by module path, each in its weight's shape (LoRA-GA) */
  readonly gradients?: (weights: ReadonlyMap<string, Tensor>) => Promise<ReadonlyMap<string, HostArray>>;
  /** the weights before they were quantized, by name such as model.layers.0.self_attn.q_proj.weight (LoftQ) */
  readonly weights?: ReadonlyMap<string, HostArray> | ((name: string) => HostArray | Promise<HostArray>);
  /** what `tuned.origin()` held when the adapter was made: takes the place of computing it */
  readonly origin?: ReadonlyMap<string, HostArray>;
}

/** What is known when an initialisation begins. */
export interface Setting<B> {
  readonly model: object;
  readonly config: LoraConfig;
  readonly seed: number;
  readonly places: readonly Place[];
  readonly data: InitialData<B>;
  /** PEFT's own numbers where ours differ on purpose */
  readonly compat: "peft" | null;
}

/** The first factors of one module, A (r, in) and B (out, r); null leaves them to the rule of `true`. */
export type Start = { readonly A: Matrix; readonly B: Matrix } | null;

/** An initialisation that has seen the whole model. */
export interface Beginning {
  /** the config to go on with, where the ranks follow from the data (EVA) */
  readonly config?: LoraConfig;
  start(place: Place): Start | Promise<Start>;
  /** what changes when every module has its factors (LoftQ: the codes of the base) */
  commit?(): void;
}

/** One way to start. A new one is a new value in a file of its own. */
export interface Initialisation {
  readonly name: string;
  begin<B>(setting: Setting<B>): Beginning | Promise<Beginning>;
}

/** The error of an initialisation that cannot go on. */
export const cannot = (init: string, problem: string, fix: string, details: { readonly key?: string; readonly value?: unknown } = {}): ConfigError =>
  new ConfigError(`init_lora_weights = "${init}": ${problem}`, { op: "createLora", key: "initLoraWeights", value: init, ...details, fix });

/** Throws unless the module multiplies by one matrix. */
export function mustBeLinear(init: string, { site }: Place): void {
  if (site.kind !== "linear" && site.kind !== "conv1d") throw cannot(init, `${site.path} is no linear layer (${site.kind})`, `name linear layers only in target_modules, or use true for the others in an adapter of their own`, { value: site.path });
}

/** Throws unless a matrix (out, in) has `wanted` singular directions. */
export function mustHaveRank(init: string, { site }: Place, wanted: number, why = `r = ${site.r}`): void {
  const most = Math.min(site.inFeatures, site.outFeatures);
  if (wanted > most) throw cannot(init, `${site.path} is ${site.outFeatures} x ${site.inFeatures} and has ${most} singular directions; ${why} needs ${wanted}`, "lower r, or give this module a smaller one in rank_pattern", { key: "r", value: site.r });
}

/** Throws unless s is positive: its root is shared between A and B. */
export function mustBePositive(init: string, { site }: Place): void {
  if (!(site.scale > 0)) throw cannot(init, `the scale of ${site.path} is ${site.scale}`, "use a scale above 0", { key: "scaling", value: site.scale });
}
