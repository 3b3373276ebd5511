/** The adapter directories that PEFT wrote (fixtures/generate/peft_kinds.py), by name. */
import type { CausalLM } from "@adjoint/models";
import { loadModel } from "@adjoint/models";
import { fixture } from "@adjoint/testing/fixtures";

export const kinds: readonly string[] = [
  "bias-all", "bias-only", "bias-on-b", "save-norms", "save-head", "save-bias", "save-mlp", "save-tied", "save-half-tied", "targets-tied",
  "tokens", "tokens-both", "tokens-tied", "parameters", "dora", "dora-embedding", "dora-bias", "two",
  "qwen2", "qwen2-rslora", "qwen2-bias-all", "qwen2-bias-only", "qwen2-tokens", "qwen2-dora", "qwen2-save",
  "gpt2", "gpt2-all", "gpt2-bias-all", "gpt2-bias-only", "gpt2-save", "gpt2-dora", "gpt2-embedding", "gpt2-parameters",
];

/** golden.json of one of them. */
export interface KindGolden {
  readonly base: string;
  readonly options: Readonly<Record<string, unknown>>;
  readonly rows: number[][];
  readonly loss: number;
  readonly loss_other?: number;
}

const bases = new Map<string, Promise<CausalLM>>();
/** The base model of a fixture, loaded once; adapters leave it as it is. */
export function baseOf(name: string): Promise<CausalLM> {
  const found = bases.get(name) ?? loadModel(fixture(name));
  bases.set(name, found);
  return found;
}
