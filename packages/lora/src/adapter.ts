/** What an adapter is: a value that adds trainable tensors beside a frozen module and says how they change its output. */
import type { HostArray, Key, Tensor } from "@adjoint/tensor";
import type { LoraConfig } from "./config.ts";
import type { Role } from "./peft-keys.ts";
import type { Target } from "./targets.ts";

/** One adapted module: its target (path, rank, scale) and sizes. */
export interface Site extends Target {
  readonly inFeatures: number;
  readonly outFeatures: number;
}

/** Trainable tensors of one site by role, in PEFT's shapes. */
export type Factors = Readonly<Record<Role, Tensor>>;

/** One use of an adapted module. */
export interface Application {
  /** the module's input: activations, or ids of an embedding (i32) */
  readonly x: Tensor;
  /** the frozen module's output for x */
  readonly y: Tensor;
  /** the frozen weight */
  readonly weight: Tensor;
  /** stream of the dropout mask; null: no dropout */
  readonly key: Key | null;
  readonly dropout: number;
}

/** A kind of adapter. A new variant is a new value of this interface, never a branch in an old one. */
export interface AdapterMethod {
  readonly name: string;
  /** shapes of the trainable tensors, in the order in which files and optimizers see them */
  shapes(site: Site): Readonly<Record<Role, readonly [number, number]>>;
  /** initial numbers, drawn on the host, the same everywhere */
  init(site: Site, config: LoraConfig, seed: number): Readonly<Record<Role, HostArray>>;
  /** the module's output with the adapter */
  forward(p: Factors, site: Site, use: Application): Tensor;
  /** what merging adds to the weight, in the weight's layout */
  delta(p: Factors, site: Site): Tensor;
}
