/** @adjoint/lora: low-rank adapters as values, and PEFT's files both ways. */
export { bakeScale } from "./bake.ts";
export { defaultConfig, loraConfig, readLoraConfig, writeLoraConfig } from "./config.ts";
export type { LoraConfig, LoraOptions, ReadConfig } from "./config.ts";
export type { JsonValue } from "./config-keys.ts";
export { compilePattern, MAX_INSTRUCTIONS } from "./pattern.ts";
export type { Pattern, PatternMatch, PatternOrigin } from "./pattern.ts";
export { lintScale, scaleOf } from "./scaling.ts";
export type { Scaling } from "./scaling.ts";
export { defaultTargets, describeTargets } from "./targets.ts";
export type { ModuleInfo, Target, TargetTable } from "./targets.ts";
export { adapterFiles, expectedTensors, matchTensors, readAdapterDirectory, writeAdapterDirectory } from "./peft.ts";
export type { AdapterDirectory, ExpectedTensor, LoadedTensors, LoadReport } from "./peft.ts";
export { factorKey, parseKey } from "./peft-keys.ts";
export type { ParsedKey, Role } from "./peft-keys.ts";
