/** A plan on a device: pipelines, parameters and bind groups made once, and one loop that encodes a run. */
import { DeviceError, type PlanSpec } from "@adjoint/tensor";
import type { Device, Pipeline } from "./device.ts";
import { USAGE } from "./gpu.ts";
import { type Group, isGroup, type Step } from "./group.ts";
import type { DeviceMemory } from "./memory.ts";
import { mergeDispatches, segmentWords } from "./merge.ts";
import type { Layout } from "./plan.ts";
import { type Region, roundUp } from "./pool.ts";
import type { Dispatch } from "./program.ts";
import { NUMBER_BLOCKS } from "./shader.ts";

/** Read-backs of small answers that a plan may have under way without making new buffers. */
const READS = 3;
/** Bind groups that a dispatch keeps for later, by what they bind. */
const KEPT_GROUPS = 16;

/** One dispatch as it is encoded. */
interface Slot {
  readonly pipeline: Pipeline;
  readonly dispatch: Dispatch;
  /** buffers at each binding: one, or one a segment */
  readonly buffers: readonly (readonly number[])[];
  readonly params: { readonly offset: number; readonly size: number };
  readonly x: number; readonly y: number; readonly z: number;
  /** whether its buffers change from run to run */
  readonly moves: boolean;
  readonly groups: Map<string, GPUBindGroup>;
  group: GPUBindGroup | null;
  /** a merged dispatch: its segments, the displacements written last, and what runs instead where stores cannot lie side by side */
  readonly merged: { readonly group: Group; written: string; readonly singles: readonly Slot[]; apart: boolean } | null;
}

export class Instance {
  readonly device: Device;
  readonly layout: Layout;
  readonly plan: PlanSpec;
  readonly slots: readonly Slot[];
  readonly #memory: DeviceMemory;
  readonly #params: GPUBuffer | null;
  readonly #numbers: GPUBuffer | null;
  readonly #own: readonly Region[];
  /** where each numbered buffer is now */
  readonly places: (Region | null)[];
  /** a buffer of the step's memory that stands for a bound input */
  readonly #home: readonly (Region | null)[];
  readonly #users: readonly (readonly number[])[];
  readonly #stale = new Set<number>();
  #waiting: Promise<unknown> | null;
  #error: Error | null = null;
  readonly #paramBytes: number;

  constructor(device: Device, memory: DeviceMemory, plan: PlanSpec, layout: Layout, numbers: GPUBuffer | null) {
    this.device = device; this.#memory = memory; this.plan = plan; this.layout = layout; this.#numbers = numbers;
    const align = device.gpu.limits.minUniformBufferOffsetAlignment, blocks = new Map<string, { offset: number; size: number }>(), words: number[][] = [];
    let total = 0;
    const block = (size: number): { offset: number; size: number } => { const at = { offset: total, size: roundUp(size, 16) }; total += roundUp(at.size, align); return at; };
    const paramsOf = (params: readonly number[]): { offset: number; size: number } => {
      const key = params.join();
      let found = blocks.get(key);
      if (found === undefined) { blocks.set(key, (found = block(params.length * 4))); words[found.offset / 4] = [...params]; }
      return found;
    };
    const { homes, items } = layout, moving = (b: number): boolean => homes[b] !== "step" || plan.buffers[b]?.kind === "input";
    const slot = (d: Dispatch, buffers: readonly (readonly number[])[], merged: Slot["merged"]): Slot => ({
      pipeline: device.pipeline(d), dispatch: d, buffers, params: merged === null ? paramsOf(d.params) : block(d.params.length * 4), x: d.workgroups[0], y: d.workgroups[1], z: d.workgroups[2],
      moves: buffers.some((list) => list.some(moving)), groups: new Map(), group: null, merged,
    });
    const single = (s: Step): Slot => slot(s.dispatch, s.buffers.map((b) => [b]), null);
    this.slots = items.map((x): Slot => {
      if (!isGroup(x)) return single(x);
      // segments that only touch the step's own memory always lie side by side
      const singles = x.steps.some((s) => s.buffers.some((b) => homes[b] === "store")) ? x.steps.map(single) : [];
      return slot(mergeDispatches(x.steps.map((s) => s.dispatch), x.segment, device.target), x.steps[0].buffers.map((_, k) => x.steps.map((s) => s.buffers[k])), { group: x, written: "", singles, apart: false });
    });
    this.#paramBytes = total;
    memory.uniforms += total;
    if (total > 0) {
      const data = new Int32Array(total / 4);
      words.forEach((w, at) => { data.set(w, at); });
      this.#params = device.create(total, USAGE.uniform | USAGE.copyTarget, "adjoint parameters");
      device.gpu.queue.writeBuffer(this.#params, 0, data);
    } else this.#params = null;
    this.work = { bytes: this.slots.reduce((n, s) => n + s.dispatch.bytes, 0), flops: this.slots.reduce((n, s) => n + s.dispatch.flops, 0) };
    this.#own = memory.workspace.take(layout.sizes);
    const small = plan.buffers.reduce((n, b, i) => n + (b.kind === "output" && homes[i] === "step" ? layout.bytes[i] : 0), 0);
    if (small > 0) memory.staging.reserve(small, READS);
    this.#home = layout.places.map((p, b) => (p < 0 ? null : { ...this.#own[p], offset: layout.offsets[b], bytes: layout.bytes[b] }));
    this.places = [...this.#home];
    this.#users = layout.bytes.map((_, b) => this.slots.flatMap((s, i) => (s.buffers.some((list) => list.includes(b)) ? [i] : [])));
    this.slots.forEach((_, i) => { this.#stale.add(i); });
    const pipelines = new Set([...this.slots, ...this.slots.flatMap((s) => s.merged?.singles ?? [])].map((s) => s.pipeline));
    this.#waiting = Promise.all([...pipelines].map((p) => p.ready)).then(() => {
      this.#waiting = null;
      for (const p of pipelines) this.#error ??= p.error;
    });
  }
  /** What a run must wait for; throws what a pipeline's compilation threw. */
  get waiting(): Promise<unknown> | null {
    if (this.#waiting !== null) return this.#waiting;
    if (this.#error !== null) throw this.#error;
    const { doubts } = this.device;
    if (doubts === null) for (const r of this.#own) this.device.demand(r.buffer);
    return doubts;
  }

  /** Its pipelines are not all there, or not known to be. */
  get unready(): boolean { return this.#waiting !== null || this.#error !== null || this.device.doubts !== null; }

  /** Says where a buffer is in the next run; `null` means its own place in the step's memory. */
  bind(buffer: number, region: Region | null): void {
    const now = this.places[buffer], next = region ?? this.#home[buffer];
    if (now === next || (now !== null && next !== null && now.serial === next.serial && now.offset === next.offset)) return;
    this.places[buffer] = next;
    for (const i of this.#users[buffer]) this.#stale.add(i);
  }
  /** Bind groups for what is bound now. */
  settle(): void {
    for (const i of this.#stale) {
      const slot = this.slots[i];
      if (slot.merged === null) { this.#regroup(slot, slot.buffers.map(([b]) => ({ ...this.#at(slot, b), bytes: this.layout.bytes[b] }))); continue; }
      const ranges = this.#ranges(slot);
      slot.merged.apart = ranges === null;
      if (ranges === null) for (const s of slot.merged.singles) this.#regroup(s, s.buffers.map(([b]) => ({ ...this.#at(s, b), bytes: this.layout.bytes[b] })));
      else { this.#segments(slot, slot.merged, ranges); this.#regroup(slot, ranges); }
    }
    this.#stale.clear();
  }
  #at(slot: Slot, b: number): Region {
    const p = this.places[b];
    if (p === null) throw new DeviceError(`webgpu: ${slot.dispatch.label} binds buffer ${b}, which has no place`);
    return p;
  }
  /** For each binding of a merged dispatch the range that holds all segments' buffers; null where there is none. */
  #ranges(slot: Slot): Region[] | null {
    const out: Region[] = [];
    for (const list of slot.buffers) {
      const all = list.map((b) => ({ r: this.#at(slot, b), bytes: this.layout.bytes[b] })), [{ r: first }] = all;
      if (all.some(({ r }) => r.serial !== first.serial)) return null;
      const offset = Math.min(...all.map(({ r }) => r.offset)), end = Math.max(...all.map(({ r, bytes }) => r.offset + bytes));
      out.push({ buffer: first.buffer, serial: first.serial, offset, bytes: end - offset });
    }
    const write = slot.dispatch.bindings.map((b) => b.access !== "read");
    for (let i = 0; i < out.length; i++) for (let j = 0; j < i; j++) {
      const [a, b] = [out[i], out[j]];
      if (a.serial === b.serial && (write[i] || write[j]) && (write[i] !== write[j] || (a.offset < b.offset + b.bytes && b.offset < a.offset + a.bytes))) return null;
    }
    return out;
  }
  /** Writes where each segment's buffers are within the ranges, if that has changed. */
  #segments(slot: Slot, merged: NonNullable<Slot["merged"]>, ranges: readonly Region[]): void {
    const { steps, segment } = merged.group, moved = steps.map((s) => s.buffers.map((b, k) => this.places[b]!.offset - ranges[k].offset)), key = moved.join();
    if (key === merged.written) return;
    merged.written = key;
    this.device.gpu.queue.writeBuffer(this.#params!, slot.params.offset, new Int32Array(segmentWords(steps.map((s) => s.dispatch), segment, moved)));
  }
  #regroup(slot: Slot, ranges: readonly Region[]): void {
    const key = slot.moves ? ranges.map((r) => `${r.serial}.${r.offset}.${r.bytes}`).join() : "", found = slot.groups.get(key);
    if (found !== undefined) { slot.group = found; return; }
    const entries: GPUBindGroupEntry[] = [{ binding: 0, resource: { buffer: this.#params!, offset: slot.params.offset, size: slot.params.size } }];
    if (slot.dispatch.numbers) entries.push({ binding: 1, resource: { buffer: this.#numbers!, offset: 0, size: blockOf(this.plan) * 4 } });
    ranges.forEach((r, i) => entries.push({ binding: i + 2, resource: { buffer: r.buffer, offset: r.offset, size: r.bytes } }));
    slot.group = this.device.gpu.createBindGroup({ label: slot.dispatch.label, layout: slot.pipeline.layout, entries });
    this.device.stats.bindGroupsCreated++;
    if (slot.groups.size >= KEPT_GROUPS) slot.groups.delete(slot.groups.keys().next().value!);
    slot.groups.set(key, slot.group);
  }
  /** What is encoded for these places of the plan: merged dispatches, or their segments where stores lie apart. */
  #encoded(from: number, to: number): readonly Slot[] {
    const part = this.slots.slice(from, to);
    return part.some((s) => s.merged?.apart === true) ? part.flatMap((s) => (s.merged?.apart === true ? s.merged.singles : [s])) : part;
  }

  /** Dispatches from..to as one pass; gives their number. */
  encode(encoder: GPUCommandEncoder, from: number, to: number): number {
    const pass = encoder.beginComputePass(), list = this.#encoded(from, to);
    let pipeline: GPUComputePipeline | null = null, group: GPUBindGroup | null = null;
    for (const s of list) {
      if (s.pipeline.value !== pipeline) pass.setPipeline((pipeline = s.pipeline.value!));
      if (s.group !== group) pass.setBindGroup(0, (group = s.group!));
      pass.dispatchWorkgroups(s.x, s.y, s.z);
    }
    pass.end();
    return list.length;
  }
  /** The same with a pass for each dispatch, between two timestamps. */
  encodeTimed(encoder: GPUCommandEncoder, from: number, to: number, querySet: GPUQuerySet): readonly Dispatch[] {
    const list = this.#encoded(from, to);
    list.forEach((s, i) => {
      const pass = encoder.beginComputePass({ label: s.dispatch.label, timestampWrites: { querySet, beginningOfPassWriteIndex: 2 * i, endOfPassWriteIndex: 2 * i + 1 } });
      pass.setPipeline(s.pipeline.value!);
      pass.setBindGroup(0, s.group);
      pass.dispatchWorkgroups(s.x, s.y, s.z);
      pass.end();
    });
    return list.map((s) => s.dispatch);
  }
  /** Bytes and operations of a run, as its dispatches count them. */
  readonly work: { readonly bytes: number; readonly flops: number };
  /** Gives its memory back. */
  release(): void {
    for (const s of this.slots) for (const x of [s, ...(s.merged?.singles ?? [])]) x.pipeline.users--;
    this.#memory.workspace.give(this.#own);
    this.#memory.uniforms -= this.#paramBytes;
    if (this.#params !== null) this.device.destroy(this.#params);
  }
}

/** Words of the step-number block of a plan. */
export const blockOf = (plan: PlanSpec): number => NUMBER_BLOCKS.find((n) => n >= plan.uniforms.length) ?? NUMBER_BLOCKS[NUMBER_BLOCKS.length - 1];
