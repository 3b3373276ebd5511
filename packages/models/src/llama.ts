/** The Llama family (Llama, Mistral, Qwen2, Qwen3): fields are the paths in Hugging Face's files. */
import { CausalMask, type Context, Embedding, Linear, RMSNorm, type RopeTables, attention, rope, ropeFrequencies, ropeTables, within } from "@adjoint/nn";
import { ConfigError, DTypeError, ShapeError, Store, type Tensor, gather, iota, show, silu } from "@adjoint/tensor";
import type { Batch, CausalLM, ModuleEntry, Pass } from "./causal-lm.ts";
import { chunkedLossSum } from "./chunked-loss.ts";
import type { ModelConfig } from "./config.ts";
import type { Tokenizer } from "./tokenizer/index.ts";

/** Gives a parameter: a store, or for the weight of a linear layer a tensor of codes. */
export type Take = (name: string) => Tensor;
/** A parameter that must be a store. */
function cell(take: Take, name: string): Store {
  const t = take(name);
  if (t instanceof Store) return t;
  throw new ConfigError(`${name} is quantized; only the weights of linear layers can be`, { key: name, fix: "decode it while loading" });
}

/** Names and shapes of all parameters, in the order of the forward pass. */
export function parameterShapes(c: ModelConfig): ReadonlyMap<string, readonly number[]> {
  const shapes = new Map<string, readonly number[]>(), q = c.numAttentionHeads * c.headDim, kv = c.numKeyValueHeads * c.headDim;
  const linear = (path: string, out: number, from: number, bias: boolean): void => { shapes.set(`${path}.weight`, [out, from]); if (bias) shapes.set(`${path}.bias`, [out]); };
  shapes.set("model.embed_tokens.weight", [c.vocabSize, c.hiddenSize]);
  for (let i = 0; i < c.numHiddenLayers; i++) {
    const at = `model.layers.${i}`;
    shapes.set(`${at}.input_layernorm.weight`, [c.hiddenSize]);
    linear(`${at}.self_attn.q_proj`, q, c.hiddenSize, c.qkvBias);
    linear(`${at}.self_attn.k_proj`, kv, c.hiddenSize, c.qkvBias);
    linear(`${at}.self_attn.v_proj`, kv, c.hiddenSize, c.qkvBias);
    if (c.qkNorm) for (const name of ["q_norm", "k_norm"]) shapes.set(`${at}.self_attn.${name}.weight`, [c.headDim]);
    linear(`${at}.self_attn.o_proj`, c.hiddenSize, q, c.outputBias);
    shapes.set(`${at}.post_attention_layernorm.weight`, [c.hiddenSize]);
    linear(`${at}.mlp.gate_proj`, c.intermediateSize, c.hiddenSize, c.mlpBias);
    linear(`${at}.mlp.up_proj`, c.intermediateSize, c.hiddenSize, c.mlpBias);
    linear(`${at}.mlp.down_proj`, c.hiddenSize, c.intermediateSize, c.mlpBias);
  }
  shapes.set("model.norm.weight", [c.hiddenSize]);
  if (!c.tieWordEmbeddings) shapes.set("lm_head.weight", [c.vocabSize, c.hiddenSize]);
  return shapes;
}

/** What all layers of one pass share. */
interface Frame { readonly pass: Pass; readonly cos: Tensor; readonly sin: Tensor; readonly mask: CausalMask }

const linear = (take: Take, path: string, bias: boolean): Linear => new Linear(take(`${path}.weight`), bias ? cell(take, `${path}.bias`) : null);

/** Grouped-query attention over rotated queries and keys. */
export class LlamaAttention {
  readonly q_proj: Linear;
  readonly k_proj: Linear;
  readonly v_proj: Linear;
  readonly o_proj: Linear;
  readonly q_norm: RMSNorm | null;
  readonly k_norm: RMSNorm | null;
  readonly layer: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly dropout: number;
  constructor(c: ModelConfig, layer: number, take: Take) {
    const at = `model.layers.${layer}.self_attn`, norm = (name: string): RMSNorm | null => (c.qkNorm ? new RMSNorm(cell(take, `${at}.${name}.weight`), c.rmsNormEps) : null);
    this.q_proj = linear(take, `${at}.q_proj`, c.qkvBias);
    this.k_proj = linear(take, `${at}.k_proj`, c.qkvBias);
    this.v_proj = linear(take, `${at}.v_proj`, c.qkvBias);
    this.o_proj = linear(take, `${at}.o_proj`, c.outputBias);
    this.q_norm = norm("q_norm");
    this.k_norm = norm("k_norm");
    this.layer = layer;
    this.kvHeads = c.numKeyValueHeads;
    this.headDim = c.headDim;
    this.dropout = c.attentionDropout;
  }
  /** x [B, T, hidden] to the same. */
  forward(x: Tensor, { pass, cos, sin, mask }: Frame): Tensor {
    const [B, T] = x.shape, { kvHeads: KV, headDim: d } = this;
    const heads = (y: Tensor): Tensor => y.reshape([B, T, -1, d]), turned = (y: Tensor, norm: RMSNorm | null): Tensor => rope(norm ? norm.forward(heads(y), pass) : heads(y), cos, sin);
    const q = turned(this.q_proj.forward(x, pass), this.q_norm).reshape([B, T, KV, -1, d]).permute([0, 2, 3, 1, 4]);
    let k = turned(this.k_proj.forward(x, pass), this.k_norm).permute([0, 2, 1, 3]), v = heads(this.v_proj.forward(x, pass)).permute([0, 2, 1, 3]);
    if (pass.cache && pass.position) [k, v] = pass.cache.extend(this.layer, k, v, pass.position);
    const y = attention(q, k, v, { mask, dropout: this.drop(pass) });
    return this.o_proj.forward(y.permute([0, 3, 1, 2, 4]).reshape([B, T, -1]), pass);
  }
  private drop(context: Context): { p: number; key: NonNullable<Context["key"]> } | null {
    if (!context.train || this.dropout === 0) return null;
    const { key } = within(context, `model.layers.${this.layer}.self_attn`);
    if (!key) throw new ConfigError(`attention_dropout = ${this.dropout} needs random numbers while training`, { op: "attention", key: "key", value: this.dropout, fix: 'pass { train: true, key: { seed, stream: "dropout", step } }' });
    return { p: this.dropout, key };
  }
}

/** down(silu(gate(x)) · up(x)). */
export class LlamaMLP {
  readonly gate_proj: Linear;
  readonly up_proj: Linear;
  readonly down_proj: Linear;
  constructor(c: ModelConfig, layer: number, take: Take) {
    const at = `model.layers.${layer}.mlp`;
    this.gate_proj = linear(take, `${at}.gate_proj`, c.mlpBias);
    this.up_proj = linear(take, `${at}.up_proj`, c.mlpBias);
    this.down_proj = linear(take, `${at}.down_proj`, c.mlpBias);
  }
  forward(x: Tensor, context: Context): Tensor {
    return this.down_proj.forward(silu(this.gate_proj.forward(x, context)).mul(this.up_proj.forward(x, context)), context);
  }
}

/** One block: h + attention(norm(h)), then h + mlp(norm(h)). */
export class LlamaLayer {
  readonly input_layernorm: RMSNorm;
  readonly self_attn: LlamaAttention;
  readonly post_attention_layernorm: RMSNorm;
  readonly mlp: LlamaMLP;
  constructor(c: ModelConfig, layer: number, take: Take) {
    this.input_layernorm = new RMSNorm(cell(take, `model.layers.${layer}.input_layernorm.weight`), c.rmsNormEps);
    this.self_attn = new LlamaAttention(c, layer, take);
    this.post_attention_layernorm = new RMSNorm(cell(take, `model.layers.${layer}.post_attention_layernorm.weight`), c.rmsNormEps);
    this.mlp = new LlamaMLP(c, layer, take);
  }
  forward(x: Tensor, frame: Frame): Tensor {
    const h = x.add(this.self_attn.forward(this.input_layernorm.forward(x), frame));
    return h.add(this.mlp.forward(this.post_attention_layernorm.forward(h), frame.pass));
  }
}

/** The model of all files whose model_type this package knows. */
export class LlamaForCausalLM implements CausalLM {
  readonly model: { readonly embed_tokens: Embedding; readonly layers: readonly LlamaLayer[]; readonly norm: RMSNorm };
  /** with tied embeddings, a layer over the same store as embed_tokens */
  readonly lm_head: Linear;
  readonly config: ModelConfig;
  // not fields of the tree: they hold no parameters
  declare readonly tokenizer: Tokenizer | null;
  declare private readonly tables: RopeTables[];

  constructor(config: ModelConfig, take: Take, tokenizer: Tokenizer | null = null) {
    this.model = {
      embed_tokens: new Embedding(cell(take, "model.embed_tokens.weight")),
      layers: Array.from({ length: config.numHiddenLayers }, (_, i) => new LlamaLayer(config, i, take)),
      norm: new RMSNorm(cell(take, "model.norm.weight"), config.rmsNormEps),
    };
    this.lm_head = new Linear(config.tieWordEmbeddings ? this.model.embed_tokens.weight : take("lm_head.weight"));
    this.config = config;
    Object.defineProperty(this, "tokenizer", { value: tokenizer, enumerable: false, configurable: true });
    Object.defineProperty(this, "tables", { value: [], enumerable: false });
  }

  hidden(inputIds: Tensor, pass: Pass = {}): Tensor {
    checkIds(inputIds, pass);
    const [B, T] = inputIds.shape, frame = this.frame(B, T, pass);
    let h = this.model.embed_tokens.forward(inputIds, pass);
    for (const layer of this.model.layers) {
      const block = (x: Tensor): Tensor => layer.forward(x, frame);
      h = pass.checkpoint ? pass.checkpoint(block)(h) : block(h);
    }
    return this.model.norm.forward(h);
  }
  head(hidden: Tensor, context: Context = {}): Tensor { return this.lm_head.forward(hidden, context); }
  logits(inputIds: Tensor, pass: Pass = {}): Tensor { return this.head(this.hidden(inputIds, pass), pass); }
  forward(inputIds: Tensor, pass: Pass = {}): Tensor { return this.logits(inputIds, pass); }

  lossSum({ inputIds, labels, ...rest }: Batch, context: Context = {}): { total: Tensor; count: Tensor } {
    checkLabels(labels, inputIds);
    const h = this.hidden(inputIds, { ...context, ...layoutOf(rest) });
    return chunkedLossSum(h, labels, this.config.vocabSize, (part, own) => this.head(part, own), context, undefined, this.lm_head);
  }
  loss(batch: Batch, context: Context = {}): Tensor {
    const { total, count } = this.lossSum(batch, context);
    return total.div(count.maximum(1));
  }

  modules(): readonly ModuleEntry[] {
    const entries: ModuleEntry[] = [{ path: "model.embed_tokens", kind: "embedding", module: this.model.embed_tokens, isOutputHead: false }];
    const norm = (path: string, module: RMSNorm | null): void => { if (module) entries.push({ path, kind: "norm", module, isOutputHead: false }); };
    const linears = (path: string, parts: Readonly<Record<string, Linear>>): void => { for (const [name, module] of Object.entries(parts)) entries.push({ path: `${path}.${name}`, kind: "linear", module, isOutputHead: false }); };
    this.model.layers.forEach(({ input_layernorm, self_attn: a, post_attention_layernorm, mlp: m }, i) => {
      const at = `model.layers.${i}`;
      norm(`${at}.input_layernorm`, input_layernorm);
      linears(`${at}.self_attn`, { q_proj: a.q_proj, k_proj: a.k_proj, v_proj: a.v_proj, o_proj: a.o_proj });
      norm(`${at}.self_attn.q_norm`, a.q_norm);
      norm(`${at}.self_attn.k_norm`, a.k_norm);
      norm(`${at}.post_attention_layernorm`, post_attention_layernorm);
      linears(`${at}.mlp`, { gate_proj: m.gate_proj, up_proj: m.up_proj, down_proj: m.down_proj });
    });
    norm("model.norm", this.model.norm);
    return [...entries, { path: "lm_head", kind: "linear", module: this.lm_head, isOutputHead: true }];
  }
  weights(): Readonly<Record<string, Tensor>> {
    const found: Record<string, Tensor> = {};
    for (const { path, module, isOutputHead } of this.modules()) {
      if (isOutputHead && this.config.tieWordEmbeddings) continue;
      found[`${path}.weight`] = module.weight;
      if ("bias" in module && module.bias) found[`${path}.bias`] = module.bias;
    }
    return found;
  }
  parameters(): Readonly<Record<string, Store>> {
    return Object.fromEntries(Object.entries(this.weights()).filter((entry): entry is [string, Store] => entry[1] instanceof Store));
  }

  /** Angles and mask of one pass. */
  private frame(B: number, T: number, pass: Pass): Frame {
    const { positionIds, position, cache, attentionMask, segmentIds } = pass, window = this.config.slidingWindow ?? undefined;
    if ((cache === undefined || cache === null) !== (position === undefined)) throw new ConfigError("a cache and a position go together", { op: "logits", key: cache ? "position" : "cache", fix: 'pass both: { cache, position: scalar(n, "i32") }' });
    if (cache && (attentionMask || segmentIds || positionIds)) throw new ConfigError("attentionMask, segmentIds and positionIds are not implemented beside a cache", { op: "logits", key: "cache", fix: "decode rows without padding, one by one" });
    if (cache && (cache.batch !== B || T > cache.capacity)) throw new ShapeError(`the cache holds [${cache.batch}, ${cache.capacity}] positions, the ids are ${show([B, T])}`, { op: "logits", shapes: [[B, T], [cache.batch, cache.capacity]] });
    const S = cache ? cache.capacity : T, ids = positionIds ?? (position ? iota([1, T]).add(position) : null), table = this.table(Math.max(S, longest(positionIds)));
    const rows = (t: Tensor): Tensor => (ids ? gather(t, ids) : t.slice(0, 0, T).unsqueeze(0));
    const mask = new CausalMask({ queries: T, keys: S, offset: position ?? null, window: window === undefined || window >= S ? null : window, segments: segmentIds ?? null, padding: attentionMask ?? null });
    return { pass, cos: rows(table.cos), sin: rows(table.sin), mask };
  }
  /** cos and sin for at least this many positions: one table a power of two. */
  private table(length: number): RopeTables {
    const { tables, config: { headDim, ropeTheta, ropeScaling } } = this;
    let found = tables.find((t) => t.length >= length);
    if (!found) {
      found = ropeTables(2 ** Math.ceil(Math.log2(Math.max(256, length))), ropeFrequencies(headDim, ropeTheta, ropeScaling));
      tables.push(found);
    }
    return found;
  }
}

/** One more than the largest explicit position, as far as it is known. */
const longest = (ids: Tensor | undefined): number => {
  let most = -1;
  for (const id of ids?.value?.data ?? []) most = Math.max(most, id);
  return most + 1;
};
const layoutOf = ({ attentionMask, positionIds, segmentIds }: Omit<Batch, "inputIds" | "labels">): Pass =>
  ({ ...(attentionMask ? { attentionMask } : {}), ...(positionIds ? { positionIds } : {}), ...(segmentIds ? { segmentIds } : {}) });

function checkIds(inputIds: Tensor, { attentionMask, positionIds, segmentIds }: Pass): void {
  if (inputIds.rank !== 2) throw new ShapeError(`token ids must be [batch, T], got ${show(inputIds.shape)}`, { op: "logits", shapes: [inputIds.shape], fix: "add the batch axis: ids.unsqueeze(0)" });
  for (const [key, t] of Object.entries({ attentionMask, positionIds, segmentIds })) {
    if (!t) continue;
    if (t.rank !== 2 || t.shape[0] !== inputIds.shape[0] || t.shape[1] !== inputIds.shape[1]) throw new ShapeError(`${key} ${show(t.shape)} does not fit the ids ${show(inputIds.shape)}`, { op: "logits", key, shapes: [t.shape, inputIds.shape] });
    if (key !== "attentionMask" && t.dtype !== "i32") throw new DTypeError(`${key} must be i32, got ${t.dtype}`, { op: "logits", key, fix: 'cast it: t.cast("i32")' });
  }
}
function checkLabels(labels: Tensor, ids: Tensor): void {
  if (labels.rank !== 2 || labels.shape.some((d, i) => d !== ids.shape[i])) throw new ShapeError(`labels ${show(labels.shape)} do not fit the ids ${show(ids.shape)}`, { op: "loss", key: "labels", shapes: [labels.shape, ids.shape], fix: "labels are not shifted: one for each id, -100 where nothing is predicted" });
  if (labels.dtype !== "i32") throw new DTypeError(`labels must be i32, got ${labels.dtype}`, { op: "loss", key: "labels", fix: 'cast them: labels.cast("i32")' });
}
