/** What a training method does around the optimizer's steps, as a value: ReLoRA's merges, AdaLoRA's budget. The loop knows none of them by name. */
import type { BoundOptimizer } from "@adjoint/optim";
import type { HostArray, Store, Tensor } from "@adjoint/tensor";

/** Gradients by the path of what trains; null where the loss does not reach. */
export type Gradients = Readonly<Record<string, Tensor | null>>;

/** Where a run stands between two steps. */
export interface Between {
  /** optimizer steps done: 1, 2, ... */
  readonly step: number;
  /** steps of the whole run */
  readonly steps: number;
  readonly optimizer: BoundOptimizer<Readonly<Record<string, Store>>>;
}

/** What a checkpoint keeps of a routine. */
export interface RoutineState {
  /** numbers for method.json */
  readonly values: Readonly<Record<string, number>>;
  /** tensors for method.safetensors */
  readonly arrays?: Readonly<Record<string, HostArray>>;
}

/** Something that happens around the steps. Everything it changes must follow from the step, the seed and its own state, so that a resumed run does the same. */
export interface Routine {
  readonly name: string;
  /** before the first step, with the steps of the whole run */
  begin?(steps: number): void;
  /** recorded in every step after the update: the gradients as the optimizer clipped them, and whether it skipped them because one was not finite (bool) */
  observe?(gradients: Gradients, skipped: Tensor): void;
  /** on the host after each step; a line for whoever watches, or null */
  between(at: Between): Promise<string | null>;
  state(): Promise<RoutineState>;
  /** takes up a state; the run's step is `step`. @throws FormatError when it does not fit; then nothing has changed */
  load(state: RoutineState, step: number): void;
}
