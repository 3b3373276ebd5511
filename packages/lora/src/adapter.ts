/** What an adapter is: a value that puts trainable tensors beside a frozen module and says how they change what it computes. */
import type { HostArray, Key, Tensor } from "@adjoint/tensor";
import type { LoraConfig } from "./config/config.ts";
import type { Target } from "./targets/targets.ts";

/** One adapted module: its target (path, kind, rank, scale) and sizes. */
export interface Site extends Target {
  /** columns of A: in features, rows of an embedding, channels · kernel of a convolution */
  readonly inFeatures: number;
  /** rows of B: out features, width of an embedding, out channels */
  readonly outFeatures: number;
  /** of a convolution: channels and kernel that A reads, [C, k] or [C, kh, kw] */
  readonly window?: readonly number[];
  /** VeRA's projections are as wide as the widest module */
  readonly widest?: Readonly<Record<"inFeatures" | "outFeatures", number>>;
  /** of a convolution: how many groups its channels fall into */
  readonly groups?: number;
}

/** What a tensor of an adapter is for: A (down projection), B (up projection), magnitude, ... */
export type Role = string;
/** Shapes by role, in the order in which files and optimizers see them. */
export type Shapes = Readonly<Record<Role, readonly number[]>>;
/** Tensors of one site by role: what trains, what is frozen beside it, and the method's constants. */
export type Factors = Readonly<Record<Role, Tensor>>;

/** Parameters of a module by name: weight, bias, weight_ih_l0. */
export type Parameters = Readonly<Record<string, Tensor>>;

/** One use of an adapted module. */
export interface Application {
  /** the module's input: activations, or ids of an embedding (i32) */
  readonly x: Tensor;
  /** what the module gives for x, after adapters that come earlier */
  readonly y: Tensor;
  /** the frozen module itself, for its geometry */
  readonly module: object;
  /** its parameters by name: weight, bias */
  readonly frozen: Parameters;
  /** stream of the dropout mask; null: no dropout */
  readonly key: Key | null;
  readonly dropout: number;
}

/** A kind of adapter. A new variant is a new value of this interface, never a branch in an old one. */
export interface AdapterMethod {
  readonly name: string;
  /** what trains at a site */
  shapes(site: Site, config: LoraConfig): Shapes;
  /** what stands beside it, never trains, and is in the file all the same (MiCA's B); `init` has numbers for it too */
  fixed?(site: Site, config: LoraConfig): Shapes;
  /** roles beside the factors whose numbers change all the same while it trains (AdaLoRA's masks) */
  readonly moving?: readonly Role[];
  /** initial numbers of these, drawn on the host, the same everywhere */
  init(site: Site, config: LoraConfig, seed: number): Readonly<Record<Role, HostArray>>;
  /** the name of a tensor in PEFT's file; `factorKey` when left out */
  key?(site: Site, role: Role): string;
  /** what follows from the frozen weight alone and is kept beside the factors: computed when the adapter is made, and again when the weight changes */
  constants?(site: Site, frozen: Parameters): Factors;
  /** initial values that follow from the frozen weight (DoRA's magnitude), for roles of `shapes`; they replace those of `init` in a new adapter */
  start?(p: Factors, site: Site, frozen: Parameters): Factors;
  /** what of `forward` follows from tensors alone and not from x (DoRA's m / n): `Tuned.frozen` computes it once and passes it on */
  settled?(p: Factors, site: Site, frozen: Parameters): Factors;
  /** the module's output with the adapter */
  forward(p: Factors, site: Site, use: Application): Tensor;
  /** a parameter of a module that is used by the weight (LSTM), with the adapter; null or left out: forward does it all */
  weight?(p: Factors, site: Site, name: string, weight: Tensor): Tensor;
  /** what merging puts in place of the module's parameters (weight, bias), in their layout and at least f32; only what changes */
  merged(p: Factors, site: Site, frozen: Parameters): Parameters;
  /** what PEFT's file holds besides the tensors that train, by name: copies of them in a tied layer, or of the base */
  echoes?(site: Site): Readonly<Record<string, (p: Factors, frozen: Parameters) => Tensor>>;
  /** a term of the loss, such as AdaLoRA's orthogonality, of a model with `count` such attachments; null: none */
  penalty?(p: Factors, site: Site, config: LoraConfig, count: number): Tensor | null;
}

/** A method whose merge adds: ΔW in the weight's layout. */
export interface AdditiveMethod extends AdapterMethod {
  delta(p: Factors, site: Site): Tensor;
}

/** `merged` of an additive method: W + ΔW. */
export function mergedByAdding(delta: AdditiveMethod["delta"]): AdapterMethod["merged"] {
  return (p, site, { weight }) => {
    const d = delta(p, site);
    return { weight: (weight.dtype === d.dtype ? weight : weight.cast(d.dtype)).add(d) };
  };
}
