/** Generation: one pass over the prompt, then a token at a time over cached keys and values. */
import type { Context, ModuleAdapter } from "@adjoint/nn";
import { ConfigError, type Tensor, compile, counter, gather, knownOptions, live, type OptionNames, scalar, scope, tensor } from "@adjoint/tensor";
import type { CausalLM } from "./causal-lm.ts";
import { type KVCache, giveCache, takeCache } from "./kv-cache.ts";
import { sample } from "./sample.ts";
import type { Tokenizer } from "./tokenizer/index.ts";

/** A model, or what wraps one and says with which adapter it runs (`lora(model, ...)`). */
export type Generator = CausalLM | { readonly base: CausalLM; context(context?: Context): Context };

export interface GenerateOptions {
  /** default 128 */
  readonly maxNewTokens?: number;
  /** default 1; 0 takes the most likely token */
  readonly temperature?: number;
  /** keep the k most likely tokens; all by default */
  readonly topK?: number;
  /** keep the fewest tokens of this probability; 1 by default */
  readonly topP?: number;
  /** default 0 */
  readonly seed?: number;
  /** end at the model's or tokenizer's end of text (default true) */
  readonly stopAtEos?: boolean;
  /** another adapter than the model's own; null: none */
  readonly adapter?: ModuleAdapter | null;
  /** called with each token and the text that it completes (empty without a tokenizer, or within a character); false ends the generation */
  readonly onToken?: (token: { readonly id: number; readonly text: string; readonly index: number }) => boolean | void;
}

const generateNames: OptionNames<Required<GenerateOptions>> = { maxNewTokens: true, temperature: true, topK: true, topP: true, seed: true, stopAtEos: true, adapter: true, onToken: true };

/**
 * Continues a text; returns the new text alone. For token ids, `generateIds`.
 * @throws ConfigError without a tokenizer, for an empty prompt, a bad option, or a prompt longer than the model's positions
 * @example console.log(await generate(model, "Call me", { maxNewTokens: 40, seed: 7 }));
 */
export async function generate(model: Generator, prompt: string, options: GenerateOptions = {}): Promise<string> {
  const { tokenizer } = baseOf(model);
  if (!tokenizer) throw new ConfigError("generate: the model has no tokenizer", { op: "generate", key: "tokenizer", fix: "load it from a folder with tokenizer.json, or use generateIds" });
  const ids = await generateIds(model, tokenizer.encode(prompt, { addSpecialTokens: true }), options);
  return tokenizer.decode(ids, { skipSpecialTokens: true });
}

/**
 * Continues a row of token ids; returns the new ids, without the end of text. Equal for equal arguments on every run.
 *
 * The cache's capacity is a power of two and doubles, so that decoding makes one plan a capacity; it ends at the model's last position.
 * @throws ConfigError as `generate`
 */
export async function generateIds(model: Generator, prompt: readonly number[], options: GenerateOptions = {}): Promise<number[]> {
  const base = baseOf(model), { maxNewTokens = 128, temperature = 1, topK = Infinity, topP = 1, seed = 0, stopAtEos = true, onToken } = options;
  knownOptions("generate", options, generateNames);
  checkOptions(base, prompt, { maxNewTokens, temperature, topK, topP });
  const context = (): Context => ("base" in model ? model.context({ train: false, ...(options.adapter === undefined ? {} : { adapter: options.adapter }) }) : { train: false, adapter: options.adapter ?? null });
  const ends = new Set(stopAtEos ? [...base.config.eosTokenIds, ...(base.tokenizer?.eosTokenId === undefined ? [] : [base.tokenizer.eosTokenId])] : []);
  const session = new Session(base, context), told = onToken && teller(base.tokenizer, onToken), out: number[] = [], limit = Math.min(maxNewTokens, base.config.maxPositionEmbeddings - prompt.length + 1);
  let logits = await session.read(prompt);
  for (;;) {
    const id = sample(finite(logits), { temperature, topK, topP }, seed, out.length);
    if (ends.has(id)) break;
    out.push(id);
    if (told?.(id) === false || out.length === limit) break;
    logits = await session.next(id);
  }
  session.end();
  return out;
}

/** A model with its cache: reads a prompt, then single tokens, and gives the logits of what follows. */
export class Session {
  readonly #model: CausalLM;
  readonly #context: () => Context;
  readonly #position = counter(0, "position");
  #cache: KVCache | null = null;
  #step: ((ids: Tensor) => Tensor) | null = null;
  /** `context` as a function is asked at each recording: an adapter that is merged while this goes on does not act twice */
  constructor(model: CausalLM, context: Context | (() => Context) = {}) {
    this.#model = model;
    this.#context = typeof context === "function" ? context : () => context;
  }

  /** Logits after a prompt: one pass over its ids, padded to a multiple of 32 (nobody sees the padding; it is overwritten). */
  async read(prompt: readonly number[]): Promise<ArrayLike<number>> {
    const length = Math.ceil(prompt.length / 32) * 32, ids = new Int32Array(length);
    ids.set(prompt);
    this.end();
    const cache = (this.#cache = takeCache(this.#model.config, 2 ** Math.ceil(Math.log2(Math.max(64, length)))));
    this.#position.value = prompt.length;
    const last = scope(() => {
      const context = this.#context(), h = this.#model.hidden(tensor(ids, { shape: [1, length] }), { ...context, cache, position: scalar(0, "i32") });
      return this.#model.head(gather(h.squeeze(0), tensor(Int32Array.of(prompt.length - 1))), context);
    });
    return last.data();
  }
  /** Logits after one more token. */
  async next(id: number): Promise<ArrayLike<number>> {
    if (!this.#cache) throw new ConfigError("next: nothing was read yet", { op: "next", fix: "call read(prompt) first" });
    const { modelType, maxPositionEmbeddings } = this.#model.config;
    if (modelType === "gpt2" && this.#position.value >= maxPositionEmbeddings) throw new ConfigError(`next: the model has no position after ${maxPositionEmbeddings - 1}`, { op: "next", key: "n_positions", value: maxPositionEmbeddings, fix: "read a shorter prompt" });
    if (this.#position.value === this.#cache.capacity) {
      const larger = takeCache(this.#model.config, 2 * this.#cache.capacity);
      await this.#cache.copyInto(larger);
      this.end();
      this.#cache = larger;
    }
    const cache = this.#cache;
    this.#step ??= compile((ids: Tensor) => {
      const position = live(this.#position, (n) => n, "i32"), logits = this.#model.logits(ids, { ...this.#context(), cache, position });
      this.#position.tick();
      return logits;
    });
    return this.#step(tensor(Int32Array.of(id), { shape: [1, 1] })).data();
  }
  /** Gives the cache back for the next session of this model; `read` begins anew. Not needed after an error. */
  end(): void {
    if (this.#cache) giveCache(this.#model.config, this.#cache);
    this.#cache = null;
    this.#step = null;
  }
}

const baseOf = (model: Generator): CausalLM => ("base" in model ? model.base : model);

/** Tells the listener each token with the text that is new: characters that more tokens may complete are held back. */
function teller(tokenizer: Tokenizer | null, onToken: NonNullable<GenerateOptions["onToken"]>): (id: number) => boolean | void {
  const ids: number[] = [];
  let said = "";
  return (id) => {
    ids.push(id);
    const all = tokenizer ? tokenizer.decode(ids, { skipSpecialTokens: true }).replace(/\uFFFD+$/, "") : "", text = all.startsWith(said) ? all.slice(said.length) : "";
    said = all.startsWith(said) ? all : said;
    return onToken({ id, text, index: ids.length - 1 });
  };
}

function finite(logits: ArrayLike<number>): ArrayLike<number> {
  for (let i = 0; i < logits.length; i++) if (!Number.isFinite(logits[i])) throw new ConfigError(`generate: the logit of token ${i} is ${logits[i]}`, { op: "generate", value: logits[i], fix: "the weights or the adapter hold numbers that are not finite: use an earlier checkpoint" });
  return logits;
}

function checkOptions(model: CausalLM, prompt: readonly number[], o: { maxNewTokens: number; temperature: number; topK: number; topP: number }): void {
  const bad = (key: string, value: unknown, need: string): ConfigError => new ConfigError(`generate: ${key} is ${String(value)}; it must be ${need}`, { op: "generate", key, value, fix: `pass ${need}` });
  if (!Number.isInteger(o.maxNewTokens) || o.maxNewTokens < 1) throw bad("maxNewTokens", o.maxNewTokens, "a positive integer");
  if (!(o.temperature >= 0 && o.temperature < Infinity)) throw bad("temperature", o.temperature, "a number of 0 or more");
  if (!(o.topK >= 1) || (o.topK !== Infinity && !Number.isInteger(o.topK))) throw bad("topK", o.topK, "a positive integer");
  if (!(o.topP > 0 && o.topP <= 1)) throw bad("topP", o.topP, "above 0 and at most 1");
  if (prompt.length === 0) throw new ConfigError("generate: the prompt has no tokens", { op: "generate", key: "prompt", fix: "start with at least one token, such as the beginning of text" });
  const odd = prompt.findIndex((id) => !(Number.isInteger(id) && id >= 0 && id < model.config.vocabSize));
  if (odd >= 0) throw new ConfigError(`generate: prompt[${odd}] is ${String(prompt[odd])}; token ids are whole numbers from 0 to ${model.config.vocabSize - 1}`, { op: "generate", key: `prompt[${odd}]`, value: prompt[odd], fix: "pass the ids that the model's tokenizer gives" });
  if (prompt.length > model.config.maxPositionEmbeddings) throw new ConfigError(`generate: the prompt has ${prompt.length} tokens, and the model was made for ${model.config.maxPositionEmbeddings} positions`, { op: "generate", key: "prompt", value: prompt.length, fix: "shorten it" });
}
