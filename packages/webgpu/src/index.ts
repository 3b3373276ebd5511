/** @adjoint/webgpu: the GPU backend, in Node through the npm package `webgpu`, in a page through `navigator.gpu`. */
export { webgpu, WebGpuBackend } from "./backend.ts";
export { adapters, nameOf, type AdapterReport } from "./adapter.ts";
export type { WebGpuOptions } from "./gpu.ts";
export type { Stats } from "./device.ts";
export type { MemoryByClass } from "./memory.ts";
export type { MatrixConfig, Target, Dispatch, Program, Binding } from "./program.ts";
export { showProfile, type ProfileRow } from "./profile.ts";
export { standardShapes, tune, type TuneOptions, type TuneProgress, type TuneShape } from "./tune.ts";
export { tileTable, type TileTable } from "./tile-table.ts";
export type { Choice, MatrixVariant, TileVariant, Variant, VecVariant } from "./tiles.ts";
