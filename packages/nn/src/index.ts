/** @adjoint/nn: layers as plain classes with fields and forward. */
export { type Context, type ModuleAdapter, within } from "./context.ts";
export { Linear } from "./linear.ts";
export { Embedding } from "./embedding.ts";
export { wide } from "./wide.ts";
