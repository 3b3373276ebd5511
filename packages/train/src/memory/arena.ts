/** What a training step holds while it runs, from the plan that would run: the model is recorded without its weights, and nothing is computed. */
import { checkpoint, gradients } from "@adjoint/autograd";
import type { LoraOptions } from "@adjoint/lora";
import { type ModelConfig, parameterShapes } from "@adjoint/models";
import { rowsPerChunk } from "@adjoint/nn";
import { accesses, type Backend, bytesOf, DeviceError, getDevice, internal, type PlanSpec, planOf, setDevice } from "@adjoint/tensor";
import { collate } from "../data/sample.ts";
import { toTensors } from "../data/tensors.ts";
import { adapterTrainee, fullTrainee, type Trainee } from "../trainee.ts";
import { hollowAdapter, hollowModel, isUniform } from "./hollow.ts";

/** One training step. */
export interface StepShape {
  readonly batch: number;
  readonly seq: number;
  readonly checkpointing: boolean;
  /** null: every weight trains */
  readonly adapter: LoraOptions | null;
  readonly dtype: "f32" | "f16" | "bf16";
}

/** Bytes of a step's values at its fullest moment. */
export interface StepBytes {
  /** the arena that the planner lays out */
  readonly arena: number;
  /** what lives at once, without the gaps between */
  readonly live: number;
}

/** Layers of the two plans that larger models are computed from: what lives at once grows by the same bytes each layer. */
const FEW = 3, MORE = 5;

/**
 * Bytes of one step. Models of at most five layers are planned whole, and so are adapters that differ from layer to layer; for larger ones
 *   arena(L) = live(3) + (L - 3) (live(5) - live(3)) / 2 + (arena(5) - live(5)),
 * and at least the gradients of all that trains, which the norm needs at once. Steps of more than `most` tokens (default 16,384) follow from smaller ones:
 * every value of a step has 1, b, s, b s, s s or b s s times a constant of numbers, so that its bytes are linear in the rows b and quadratic in the tokens s of a row.
 */
export function stepBytes(config: ModelConfig, step: StepShape, device: PlannedDevice = getDevice(), most: number = MOST): StepBytes {
  const L = config.numHiddenLayers;
  if (L <= MORE || (step.adapter !== null && !isUniform(hollowAdapter(hollowModel(config, step.dtype), step.adapter), L))) return sized(config, step, device, most);
  const few = sized({ ...config, numHiddenLayers: FEW }, step, device, most), more = sized({ ...config, numHiddenLayers: MORE }, step, device, most);
  const live = few.live + ((L - FEW) * (more.live - few.live)) / (MORE - FEW), all = 4 * trainables({ ...config, numHiddenLayers: L }, step);
  return { live: Math.max(live, all), arena: Math.max(live, all) + more.arena - more.live };
}
const trainables = (config: ModelConfig, { adapter }: StepShape): number => (adapter === null ? [...parameterShapes(config).values()].reduce((n, s) => n + s.reduce((a, b) => a * b, 1), 0) : 0);

/** What of a device decides its plans. */
export type PlannedDevice = Pick<Backend, "name" | "dtypes" | "fuse" | "composites" | "products" | "decodes">;

/** A device that plans and cannot run. */
function planner(of: PlannedDevice): Backend {
  const refuse = (): never => { throw new DeviceError("this device only plans", { op: "stepBytes", fix: "this is a defect of adjoint" }); };
  return {
    name: of.name, dtypes: of.dtypes, fuse: of.fuse, composites: of.composites, threads: 1, sync: false,
    ...(of.products === undefined ? {} : { products: of.products }), ...(of.decodes === undefined ? {} : { decodes: of.decodes }),
    counters: { arenaBytes: 0, bufferBytes: 0, buffers: 0, pages: 0, modules: 0, messages: 0 },
    alloc: refuse, free: () => undefined, write: refuse, read: refuse, run: refuse, prepare: (plan) => ({ plan }), release: () => undefined,
  };
}

/** Tokens of the largest step that is planned itself: the loss comes in chunks, so that a plan's length, and the time it takes, grow with them. */
const MOST = 2 ** 14;

/** A step of any size; beyond `most` tokens by its polynomial through smaller ones, in which the same moment is the fullest. */
function sized(config: ModelConfig, step: StepShape, device: PlannedDevice, most: number): StepBytes {
  const { batch, seq } = step;
  if (batch * seq <= most) return planned(config, step, device);
  const at = batch > 2 ? [Math.max(1, Math.floor(most / seq / 2)), Math.max(2, Math.floor(most / seq))] : [4, 2, 1].map((part) => Math.ceil(most / batch / part));
  const parts = at.map((n) => sized(config, { ...step, ...(batch > 2 ? { batch: n } : { seq: n }) }, device, most)), x = batch > 2 ? batch : seq;
  return { arena: through(at, parts.map((p) => p.arena), x), live: through(at, parts.map((p) => p.live), x) };
}

/** At x, the polynomial through the points (xs, ys) (Lagrange), in whole bytes. */
const through = (xs: readonly number[], ys: readonly number[], x: number): number => Math.round(ys.reduce((sum, y, i) => sum + xs.reduce((p, other, j) => (i === j ? p : (p * (x - other)) / (xs[i] - other)), y), 0));

/** Records loss and gradients of a model whose stores hold no numbers, and plans them. */
function planned(config: ModelConfig, step: StepShape, device: PlannedDevice): StepBytes {
  const before = getDevice();
  setDevice(planner(device));
  try {
    return internal(() => bytesOfPlan(recorded(config, step)));
  } finally {
    setDevice(before);
  }
}

/** Whether the model itself drops values while training: then more of them are kept. */
const drops = (c: ModelConfig): boolean => (c.modelType === "gpt2" ? c.embdPdrop + c.residPdrop + c.attnPdrop : c.attentionDropout) > 0;

function recorded(config: ModelConfig, { batch, seq, checkpointing, adapter, dtype }: StepShape): PlanSpec {
  const model = hollowModel(config, dtype), trainee: Trainee = adapter === null ? fullTrainee(model) : adapterTrainee(hollowAdapter(model, adapter));
  const ids = Array.from({ length: seq }, () => 0), rows = toTensors(collate(Array.from({ length: batch }, () => ({ ids, labels: ids })), 0, 0));
  const { total, count } = trainee.lossSum(rows, { ...(drops(config) ? { train: true, key: { seed: 0, stream: "dropout" } } : { train: false }), ...(checkpointing ? { checkpoint } : {}) });
  const mean = total.div(count.maximum(1)), penalty = trainee.penalty?.() ?? null, loss = penalty === null ? mean : mean.add(penalty), grads = Object.values(gradients(loss, trainee.trainable)).filter((g) => g !== null);
  return planOf([loss, ...grads]).spec;
}

/** The fullest moment of a plan: every value lives from the kernel that writes it to the last that reads it, answers to the end. */
function bytesOfPlan({ kernels, buffers, arenaBytes }: PlanSpec): StepBytes {
  const first = new Array<number>(buffers.length).fill(-1), last = new Array<number>(buffers.length).fill(-1);
  kernels.forEach((k, i) => {
    const { reads, writes } = accesses(k);
    for (const { buffer } of [...reads, ...writes]) { if (first[buffer] < 0) first[buffer] = i; last[buffer] = i; }
  });
  const change = new Array<number>(kernels.length + 1).fill(0);
  buffers.forEach((b, i) => {
    if (b.kind === "store" || first[i] < 0) return;
    const bytes = b.length * bytesOf(b.dtype);
    change[first[i]] += bytes;
    change[b.kind === "output" ? kernels.length : last[i] + 1] -= bytes;
  });
  let now = 0, live = 0;
  for (const c of change) live = Math.max(live, (now += c));
  return { arena: Math.max(arenaBytes, live), live };
}

/** Logits in one chunk of the loss and what softmax makes of them: two tensors of rows times vocabulary in f32. */
export function logitsBytes(config: ModelConfig, { batch, seq }: Pick<StepShape, "batch" | "seq">): number {
  const rows = batch * seq, limit = 2 ** 24;
  return 2 * 4 * config.vocabSize * (rows * config.vocabSize <= limit ? rows : rowsPerChunk(rows, config.vocabSize, limit));
}
