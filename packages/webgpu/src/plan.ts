/** A plan as a list of dispatches over numbered buffers, and which of these can share memory. */
import { bytesOf, DeviceError, type DType, type PlanSpec } from "@adjoint/tensor";
import type { Dispatch, Program, Target } from "./program.ts";
import { roundUp } from "./pool.ts";

/** Answers up to this size are copied out in the step's own submit; larger ones get a buffer of their own. */
export const SMALL_ANSWER = 1024;
/** Device inputs up to this size are copied into the plan; larger ones are bound. */
export const SMALL_INPUT = 65536;

/** Bytes of a tensor as a GPU buffer holds it: whole words, and room for one vector load. */
export const deviceBytes = (dtype: DType, length: number): number => roundUp(Math.max(1, length) * bytesOf(dtype), 16);

/** Where a numbered buffer lives: in the step's own memory, in a store, or in an answer's own buffer. */
export type Home = "step" | "store" | "answer";

/** One dispatch with buffers numbered over the whole plan: the plan's own first, then all scratch. */
export interface Step { readonly dispatch: Dispatch; readonly buffers: readonly number[]; readonly kernel: number }

export interface Layout {
  readonly steps: readonly Step[];
  /** of each numbered buffer */
  readonly bytes: readonly number[];
  readonly homes: readonly Home[];
  /** for buffers in the step's memory: which of `sizes` each takes, -1 for others and for buffers that nobody uses */
  readonly places: readonly number[];
  /** bytes of the buffers that the plan needs at once */
  readonly sizes: readonly number[];
  /** stores (buffer numbers) that dispatches only write */
  readonly written: ReadonlySet<number>;
  /** stores (buffer numbers) that dispatches write */
  readonly touched: ReadonlySet<number>;
}

export function layOut(plan: PlanSpec, programs: readonly Program[], target: Target): Layout {
  const bytes = plan.buffers.map((b) => deviceBytes(b.dtype, b.length));
  const homes: Home[] = plan.buffers.map((b, i) => (b.kind === "store" ? "store" : b.kind === "output" && bytes[i] > SMALL_ANSWER ? "answer" : "step"));
  plan.buffers.forEach((b, i) => { if (bytes[i] > target.limits.bindingBytes) throw tooLarge(`${b.kind} of ${b.length} ${b.dtype}`, bytes[i], target); });
  const steps: Step[] = [];
  programs.forEach((program, kernel) => {
    const base = bytes.length;
    for (const s of program.scratch) {
      if (s > target.limits.bindingBytes) throw tooLarge(`temporary memory of ${plan.kernels[kernel].label}`, s, target);
      bytes.push(roundUp(Math.max(1, s), 16));
      homes.push("step");
    }
    for (const dispatch of program.dispatches) {
      const buffers = dispatch.bindings.map((b) => (b.buffer < plan.buffers.length ? b.buffer : base + b.buffer - plan.buffers.length));
      if (buffers.some((b) => b >= bytes.length)) throw new DeviceError(`webgpu: ${dispatch.label} binds a buffer that does not exist`);
      steps.push({ dispatch, buffers, kernel });
    }
  });
  const { places, sizes } = share(lives(plan, steps, bytes.length), bytes, homes);
  const { reads, writes } = directions(plan);
  return { steps, bytes, homes, places, sizes, touched: writes, written: new Set([...writes].filter((b) => !reads.has(b))) };
}

function tooLarge(what: string, bytes: number, target: Target): DeviceError {
  return new DeviceError(`webgpu: ${what} takes ${bytes} bytes; this device binds at most ${target.limits.bindingBytes}`, {
    key: "maxStorageBufferBindingSize", value: bytes, fix: "use shorter or fewer sequences a step, half precision (f16, bf16), or chunks along the first axis",
  });
}

/** First and last dispatch that touches each buffer; inputs are there before the first, answers stay after the last. */
function lives(plan: PlanSpec, steps: readonly Step[], count: number): { first: number; last: number }[] {
  const out = Array.from({ length: count }, () => ({ first: Infinity, last: -1 }));
  steps.forEach((s, i) => { for (const b of s.buffers) { out[b].first = Math.min(out[b].first, i); out[b].last = i; } });
  plan.buffers.forEach((b, i) => {
    if (b.kind === "input" && out[i].last >= 0) out[i].first = -1;
    if (b.kind === "output") { out[i].last = steps.length; out[i].first = Math.min(out[i].first, steps.length); }
  });
  return out;
}

/** Greedy by size: the largest first, each into the first shared buffer whose other tenants live at other times. */
function share(life: readonly { first: number; last: number }[], bytes: readonly number[], homes: readonly Home[]): { places: number[]; sizes: number[] } {
  const places = bytes.map(() => -1), sizes: number[] = [], tenants: { first: number; last: number }[][] = [];
  const order = bytes.map((_, i) => i).filter((i) => homes[i] === "step" && life[i].last >= 0).sort((a, b) => bytes[b] - bytes[a] || life[a].first - life[b].first);
  for (const i of order) {
    const { first, last } = life[i];
    let at = tenants.findIndex((list) => list.every((t) => t.last < first || last < t.first));
    if (at < 0) { at = sizes.push(bytes[i]) - 1; tenants.push([]); }
    tenants[at].push(life[i]);
    places[i] = at;
  }
  return { places, sizes };
}

/** Stores that are written, and those whose old numbers matter: some kernel loads them, or none writes them wholly. */
function directions(plan: PlanSpec): { reads: Set<number>; writes: Set<number> } {
  const reads = new Set<number>(), writes = new Set<number>(), whole = new Set<number>();
  for (const k of plan.kernels) {
    const { from, to } = touches(k);
    for (const b of from) if (plan.buffers[b].kind === "store") reads.add(b);
    for (const b of to) {
      if (plan.buffers[b].kind !== "store") continue;
      writes.add(b);
      if (k.kind === "map" && k.shape.reduce((n, d) => n * d, 1) >= plan.buffers[b].length) whole.add(b);
    }
  }
  for (const b of writes) if (!whole.has(b)) reads.add(b);
  return { reads, writes };
}
function touches(k: PlanSpec["kernels"][number]): { from: number[]; to: number[] } {
  switch (k.kind) {
    case "map": case "rows": case "cols": return { from: k.loads.map((v) => v.buffer), to: k.stores.map((s) => s.view.buffer) };
    case "contract": return { from: [k, ...(k.more ?? [])].flatMap((p) => [p.a.buffer, p.b.buffer]).concat(k.loads.map((v) => v.buffer)), to: k.stores.map((s) => s.view.buffer) };
    case "gather": return { from: [k.table.buffer, k.ids.buffer], to: [k.out.buffer] };
    case "scatterAdd": return { from: [k.source.buffer, k.ids.buffer], to: [k.out.buffer] };
    case "composite": return { from: k.inputs.map((v) => v.buffer), to: k.outputs.map((v) => v.buffer) };
    default: return k satisfies never;
  }
}
