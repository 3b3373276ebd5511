/** A plan on a device: pipelines, parameters and bind groups made once, and one loop that encodes a run. */
import type { PlanSpec } from "@adjoint/tensor";
import type { Device, Pipeline } from "./device.ts";
import { USAGE } from "./gpu.ts";
import type { DeviceMemory } from "./memory.ts";
import type { Layout } from "./plan.ts";
import { type Region, roundUp } from "./pool.ts";
import { NUMBER_BLOCKS } from "./shader.ts";

/** Read-backs of small answers that a plan may have under way without making new buffers. */
const READS = 3;
/** Bind groups that a dispatch keeps for later, by what they bind. */
const KEPT_GROUPS = 16;

interface Slot {
  readonly pipeline: Pipeline;
  readonly label: string;
  readonly buffers: readonly number[];
  readonly params: { readonly offset: number; readonly size: number };
  readonly numbers: boolean;
  readonly x: number; readonly y: number; readonly z: number;
  /** whether its buffers change from run to run */
  readonly moves: boolean;
  readonly groups: Map<string, GPUBindGroup>;
  group: GPUBindGroup | null;
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
    const paramsOf = (params: readonly number[]): { offset: number; size: number } => {
      const key = params.join(), found = blocks.get(key);
      if (found !== undefined) return found;
      const block = { offset: total, size: roundUp(params.length * 4, 16) };
      blocks.set(key, block);
      words[total / 4] = [...params];
      total += roundUp(block.size, align);
      return block;
    };
    const { homes, steps } = layout, moving = (b: number): boolean => homes[b] !== "step" || plan.buffers[b]?.kind === "input";
    this.slots = steps.map(({ dispatch: d, buffers }): Slot => ({
      pipeline: device.pipeline(d), label: d.label, buffers, params: paramsOf(d.params), numbers: d.numbers,
      x: d.workgroups[0], y: d.workgroups[1], z: d.workgroups[2], moves: buffers.some(moving), groups: new Map(), group: null,
    }));
    this.#paramBytes = total;
    memory.uniforms += total;
    if (total > 0) {
      const data = new Int32Array(total / 4);
      words.forEach((w, at) => { data.set(w, at); });
      this.#params = device.create(total, USAGE.uniform | USAGE.copyTarget, "adjoint parameters");
      device.gpu.queue.writeBuffer(this.#params, 0, data);
    } else this.#params = null;
    this.#own = memory.workspace.take(layout.sizes);
    const small = plan.buffers.reduce((n, b, i) => n + (b.kind === "output" && homes[i] === "step" ? layout.bytes[i] : 0), 0);
    if (small > 0) memory.staging.reserve(small, READS);
    this.#home = layout.places.map((p) => (p < 0 ? null : this.#own[p]));
    this.places = [...this.#home];
    this.#users = layout.bytes.map((_, b) => this.slots.flatMap((s, i) => (s.buffers.includes(b) ? [i] : [])));
    this.slots.forEach((_, i) => { this.#stale.add(i); });
    this.#waiting = Promise.all(new Set(this.slots.map((s) => s.pipeline.ready))).then(() => {
      this.#waiting = null;
      this.#error = this.slots.find((s) => s.pipeline.error !== null)?.pipeline.error ?? null;
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
    for (const i of this.#stale) this.#regroup(this.slots[i]);
    this.#stale.clear();
  }
  #regroup(slot: Slot): void {
    const key = slot.moves ? slot.buffers.map((b) => { const p = this.places[b]; return p === null ? "" : `${p.serial}.${p.offset}`; }).join() : "";
    const found = slot.groups.get(key);
    if (found !== undefined) { slot.group = found; return; }
    const entries: GPUBindGroupEntry[] = [{ binding: 0, resource: { buffer: this.#params!, offset: slot.params.offset, size: slot.params.size } }];
    if (slot.numbers) entries.push({ binding: 1, resource: { buffer: this.#numbers!, offset: 0, size: blockOf(this.plan) * 4 } });
    slot.buffers.forEach((b, i) => {
      const p = this.places[b];
      if (p === null) throw new Error(`webgpu: ${slot.label} binds buffer ${b}, which has no place`);
      entries.push({ binding: i + 2, resource: { buffer: p.buffer, offset: p.offset, size: this.layout.bytes[b] } });
    });
    slot.group = this.device.gpu.createBindGroup({ label: slot.label, layout: slot.pipeline.layout, entries });
    this.device.stats.bindGroupsCreated++;
    if (slot.groups.size >= KEPT_GROUPS) slot.groups.delete(slot.groups.keys().next().value!);
    slot.groups.set(key, slot.group);
  }

  /** Dispatches from..to as one pass. */
  encode(encoder: GPUCommandEncoder, from: number, to: number): void {
    const { slots } = this, pass = encoder.beginComputePass();
    let pipeline: GPUComputePipeline | null = null, group: GPUBindGroup | null = null;
    for (let i = from; i < to; i++) {
      const s = slots[i];
      if (s.pipeline.value !== pipeline) pass.setPipeline((pipeline = s.pipeline.value!));
      if (s.group !== group) pass.setBindGroup(0, (group = s.group!));
      pass.dispatchWorkgroups(s.x, s.y, s.z);
    }
    pass.end();
  }
  /** The same with a pass for each dispatch, between two timestamps. */
  encodeTimed(encoder: GPUCommandEncoder, from: number, to: number, querySet: GPUQuerySet): void {
    for (let i = from; i < to; i++) {
      const s = this.slots[i], at = 2 * (i - from), pass = encoder.beginComputePass({ label: s.label, timestampWrites: { querySet, beginningOfPassWriteIndex: at, endOfPassWriteIndex: at + 1 } });
      pass.setPipeline(s.pipeline.value!);
      pass.setBindGroup(0, s.group!);
      pass.dispatchWorkgroups(s.x, s.y, s.z);
      pass.end();
    }
  }
  /** Gives its memory back. */
  release(): void {
    for (const s of this.slots) s.pipeline.users--;
    this.#memory.workspace.give(this.#own);
    this.#memory.uniforms -= this.#paramBytes;
    this.#params?.destroy();
  }
}

/** Words of the step-number block of a plan. */
export const blockOf = (plan: PlanSpec): number => NUMBER_BLOCKS.find((n) => n >= plan.uniforms.length) ?? NUMBER_BLOCKS[NUMBER_BLOCKS.length - 1];
