/** @adjoint/models: Llama-family models, tokenizers and generation. */
export * from "./tokenizer/index.ts";
