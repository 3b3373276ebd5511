/** What the engine remembers between two flushes. */
import type { Backend } from "./backend.ts";
import { referenceBackend } from "./reference/index.ts";
import type { Store } from "./store.ts";
import type { Tensor } from "./tensor.ts";

export interface State {
  device: Backend;
  chosen: boolean;
  /** stores whose assignment waits */
  readonly pending: Set<Store>;
  /** when each of them was assigned, in tensors recorded */
  readonly since: WeakMap<Store, number>;
  /** small values recorded by user code since the last flush */
  small: Tensor[];
  /** how many flushes each of them has seen */
  readonly age: WeakMap<Tensor, number>;
  /** values of any size that the user wants to outlive the next plan */
  readonly kept: WeakSet<Tensor>;
  recorded: number;
  /** > 0 inside scope: assignments wait for its end */
  scopes: number;
  /** inside compile's recording: reading throws */
  compiling: boolean;
  internal: number;
  lastYield: number;
  flushes: number;
  kernels: number;
}
/** The one state of the engine. */
export const state: State = { device: referenceBackend, chosen: false, pending: new Set(), since: new WeakMap(), small: [], age: new WeakMap(), kept: new WeakSet(), recorded: 0, scopes: 0, compiling: false, internal: 0, lastYield: 0, flushes: 0, kernels: 0 };

/** Values recorded inside are not the user's own: they are kept only if something needs them. */
export function internal<R>(f: () => R): R {
  state.internal++;
  try { return f(); } finally { state.internal--; }
}
