/** @adjoint/train: data, loops, checkpoints, metrics, evaluation. */
export * from "./data/index.ts";
