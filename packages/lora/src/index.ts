/** @adjoint/lora: low-rank adapters as values, and PEFT's files both ways. */
export { defaultConfig, loraConfig, readLoraConfig, writeLoraConfig } from "./config.ts";
export type { LoraConfig, LoraOptions, ReadConfig } from "./config.ts";
export type { JsonValue } from "./config-keys.ts";
export { compilePattern, MAX_INSTRUCTIONS } from "./pattern.ts";
export type { Pattern, PatternMatch, PatternOrigin } from "./pattern.ts";
export { lintScale, scaleOf } from "./scaling.ts";
export type { Scaling } from "./scaling.ts";
export { defaultTargets, describeTargets } from "./targets.ts";
export type { ModuleInfo, Target, TargetTable } from "./targets.ts";
