/** @adjoint/models: Llama-family models, tokenizers and generation. */
export * from "./tokenizer/index.ts";
export { resolveModel } from "./hub.ts";
export type { DownloadProgress, ResolveModelOptions } from "./hub.ts";
