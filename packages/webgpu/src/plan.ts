/** A plan as a list of dispatches over numbered buffers, and which of these can share memory. */
import { bytesOf, DeviceError, type DType, type PlanSpec } from "@adjoint/tensor";
import { type Group, group, type Home, type Step, stepsOf, type Union } from "./group.ts";
import type { Program, Target } from "./program.ts";
import { roundUp } from "./pool.ts";

/** Answers up to this size are copied out in the step's own submit; larger ones get a buffer of their own. */
export const SMALL_ANSWER = 1024;
/** Device inputs up to this size are copied into the plan; larger ones are bound. */
export const SMALL_INPUT = 65536;

/** Bytes of a tensor as a GPU buffer holds it: whole words, and room for one vector load. */
export const deviceBytes = (dtype: DType, length: number): number => roundUp(Math.max(1, length) * bytesOf(dtype), 16);

export interface Layout {
  /** what runs, in order: single dispatches, and groups that run as one */
  readonly items: readonly (Step | Group)[];
  /** of each numbered buffer */
  readonly bytes: readonly number[];
  readonly homes: readonly Home[];
  /** for buffers in the step's memory: which of `sizes` each takes, -1 for others and for buffers that nobody uses */
  readonly places: readonly number[];
  /** of each numbered buffer: bytes from the start of its place */
  readonly offsets: readonly number[];
  /** bytes of the buffers that the plan needs at once */
  readonly sizes: readonly number[];
  /** stores (buffer numbers) that groups want side by side */
  readonly storeUnions: readonly (readonly number[])[];
  /** stores (buffer numbers) that dispatches only write */
  readonly written: ReadonlySet<number>;
  /** stores (buffer numbers) that dispatches write */
  readonly touched: ReadonlySet<number>;
}

export function layOut(plan: PlanSpec, programs: readonly Program[], target: Target): Layout {
  const bytes = plan.buffers.map((b) => deviceBytes(b.dtype, b.length));
  const homes: Home[] = plan.buffers.map((b, i) => (b.kind === "store" ? "store" : b.kind === "output" && bytes[i] > SMALL_ANSWER ? "answer" : "step"));
  plan.buffers.forEach((b, i) => {
    if (bytes[i] <= target.limits.bindingBytes) return;
    const user = plan.kernels.find((k) => touches(k).to.includes(i)) ?? plan.kernels.find((k) => touches(k).from.includes(i));
    throw tooLarge(`${b.name === undefined ? "" : `${b.name}, `}${b.kind} of ${b.length} ${b.dtype}${user === undefined ? "" : ` (kernel "${user.label}")`}`, bytes[i], target);
  });
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
  const { items, unions, storeUnions } = group(plan, steps, bytes, homes, target);
  const { places, offsets, sizes } = share(lives(plan, items, bytes.length), bytes, homes, unions);
  const { reads, writes } = directions(plan);
  return { items, bytes, homes, places, offsets, sizes, storeUnions, touched: writes, written: new Set([...writes].filter((b) => !reads.has(b))) };
}

function tooLarge(what: string, bytes: number, target: Target): DeviceError {
  return new DeviceError(`webgpu: ${what} takes ${bytes} bytes; this device binds at most ${target.limits.bindingBytes}`, {
    key: "maxStorageBufferBindingSize", value: bytes, fix: "use shorter or fewer sequences a step, half precision (f16, bf16), or chunks along the first axis",
  });
}

/** First and last dispatch that touches each buffer; inputs are there before the first, answers stay after the last. */
function lives(plan: PlanSpec, items: readonly (Step | Group)[], count: number): { first: number; last: number }[] {
  const out = Array.from({ length: count }, () => ({ first: Infinity, last: -1 }));
  items.forEach((x, i) => { for (const s of stepsOf(x)) for (const b of s.buffers) { out[b].first = Math.min(out[b].first, i); out[b].last = i; } });
  plan.buffers.forEach((b, i) => {
    if (b.kind === "input" && out[i].last >= 0) out[i].first = -1;
    if (b.kind === "output") { out[i].last = items.length; out[i].first = Math.min(out[i].first, items.length); }
  });
  return out;
}

/** Greedy by size: the largest first, each into the first shared buffer whose other tenants live at other times; a union is one tenant. */
function share(life: readonly { first: number; last: number }[], bytes: readonly number[], homes: readonly Home[], unions: readonly Union[]): { places: number[]; offsets: number[]; sizes: number[] } {
  interface Tenant { readonly members: readonly number[]; readonly offsets: readonly number[]; readonly bytes: number; readonly first: number; readonly last: number }
  const places = bytes.map(() => -1), offsets = bytes.map(() => 0), sizes: number[] = [], tenants: Tenant[][] = [], united = new Set(unions.flatMap((u) => u.members));
  const all: Tenant[] = unions.map((u) => ({ ...u, first: Math.min(...u.members.map((b) => life[b].first)), last: Math.max(...u.members.map((b) => life[b].last)) }));
  bytes.forEach((n, b) => { if (homes[b] === "step" && life[b].last >= 0 && !united.has(b)) all.push({ members: [b], offsets: [0], bytes: n, ...life[b] }); });
  for (const t of all.sort((a, b) => b.bytes - a.bytes || a.first - b.first)) {
    let at = tenants.findIndex((list) => list.every((o) => o.last < t.first || t.last < o.first));
    if (at < 0) { at = sizes.push(t.bytes) - 1; tenants.push([]); }
    tenants[at].push(t);
    t.members.forEach((b, i) => { places[b] = at; offsets[b] = t.offsets[i]; });
  }
  return { places, offsets, sizes };
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
