/**
 * AdaLoRA's allocation: how much each triplet matters, recorded with every step, and which are switched off (arXiv 2303.10512, PEFT's RankAllocator).
 *
 *   I = |p ∂L/∂p|,   Ī ← β₁ Ī + (1 - β₁) I,   U ← β₂ U + (1 - β₂) |I - Ī|,   score = Ī U
 *   triplet i:  score(E_i) + mean_j score(A_ij) + mean_j score(B_ji)
 */
import { assign, concat, ConfigError, counter, type Counter, FormatError, type HostArray, live, sameShape, type Store, type Tensor, zeroStore } from "@adjoint/tensor";
import { adalora } from "./adalora.ts";
import { type AdaloraConfig, budgetAt } from "../config/adalora-config.ts";
import { type Attachment, keyOf } from "../attachments.ts";
import type { Tuned } from "../tuned.ts";

/** What must be kept for a run to go on: means, deviations and masks by name, and whether the ranks are final. */
export interface AllocatorState {
  readonly arrays: Readonly<Record<string, HostArray>>;
  readonly final: boolean;
}

/** The tensors of one module, and what is remembered of them. */
interface Triplets {
  readonly at: Attachment;
  readonly mask: Store;
  readonly parts: readonly { readonly key: string; readonly role: string; readonly p: Store; readonly mean: Store; readonly deviation: Store }[];
}

/** Watches a training of `tuned`, and gives ranks up by its budget. */
export class RankAllocator {
  readonly config: AdaloraConfig;
  readonly #modules: readonly Triplets[];
  /** the step t = 0, 1, ... that is recorded next */
  readonly #t: Counter = counter(0, "adalora");
  #final = false;

  /** @throws ConfigError for an adapter of another kind, and without the number of steps */
  constructor(tuned: Tuned<unknown>, steps: number) {
    const own = tuned.loraConfig.adalora;
    if (own === null) throw new ConfigError("this adapter is not of AdaLoRA", { op: "RankAllocator", key: "adalora", value: null, fix: "lora(model, { adalora: { initR, targetR, totalStep } })" });
    if (own.totalStep !== 0 && own.totalStep !== steps) throw new ConfigError(`adalora.totalStep is ${own.totalStep}, and the run has ${steps} steps`, { op: "RankAllocator", key: "total_step", value: own.totalStep, fix: "leave it out, or give the steps of the run" });
    if (own.tinit >= steps - own.tfinal) throw new ConfigError(`tinit = ${own.tinit} and tfinal = ${own.tfinal} leave none of ${steps} steps for the budget`, { op: "RankAllocator", key: "tinit", value: own.tinit, fix: "shorten tinit or tfinal, or train for longer" });
    this.config = { ...own, totalStep: steps };
    this.#modules = tuned.attachments.flatMap((at): Triplets[] => {
      const mask = at.beside?.["mask"];
      if (at.method !== adalora || mask === undefined) return [];
      const parts = Object.entries(at.factors).map(([role, p]) => { const key = keyOf(at, role); return { key, role, p, mean: zeroStore(p.shape, p.dtype, `adalora.mean.${key}`), deviation: zeroStore(p.shape, p.dtype, `adalora.deviation.${key}`) }; });
      for (const { mean, deviation } of parts) for (const s of [mean, deviation]) s.usedAs("optimizer");
      return [{ at, mask, parts }];
    });
  }

  /** Whether the ranks stay as they are from now on. */
  get final(): boolean {
    return this.#final;
  }
  /** Triplets of all modules at the start. */
  get start(): number {
    return this.config.initR * this.#modules.length;
  }

  /** Records what a step says about its triplets, after the update: `gradients` by PEFT's names, `skipped` (bool) where they were not finite. Once the ranks are final, it keeps E = 0 where it was set. */
  observe(gradients: Readonly<Record<string, Tensor | null>>, skipped: Tensor | null = null): void {
    const { beta1, beta2, totalStep, tfinal } = this.config, stores: Store[] = [], values: Tensor[] = [], open = live(this.#t, (t) => (t < totalStep - tfinal ? 1 : 0)).gt(0);
    for (const { mask, parts } of this.#modules) for (const { key, role, p, mean, deviation } of parts) {
      const g = gradients[key] ?? null, I = g === null ? mean.mul(0) : p.mul(g.cast(p.dtype)).abs(), keep = (next: Tensor, old: Tensor): Tensor => { const due = open.where(next, old); return skipped === null ? due : skipped.where(old, due); };
      const average = mean.mul(beta1).add(I.mul(1 - beta1)), spread = deviation.mul(beta2).add(I.sub(average).abs().mul(1 - beta2));
      stores.push(mean, deviation);
      values.push(keep(average, mean), keep(spread, deviation));
      if (role === "E") {
        stores.push(p);
        values.push(mask.gt(0).where(p, p.mul(0)));
      }
    }
    assign(stores, values);
    this.#t.tick();
  }

  /** Scores of the triplets of all modules, one module after the other. */
  async scores(): Promise<ArrayLike<number>> {
    const score = ({ mean, deviation }: Triplets["parts"][number]): Tensor => mean.mul(deviation);
    const all = this.#modules.map(({ parts, at }) => parts.map((part) => (part.role === "E" ? score(part) : score(part).mean(part.role === "A" ? 1 : 0)).reshape([at.site.r])).reduce((a, b) => a.add(b)));
    return concat(all).data();
  }

  /**
   * What follows step t = 0, 1, ...: where it is due, E is set to 0 for the triplets of lowest score, until as many are left as the budget says
   * (of equals, the earlier module's). After step total - tfinal, or the last one, the ranks are final. Returns how many are left, or null where nothing was due.
   */
  async allocate(t: number): Promise<number | null> {
    const { totalStep, tfinal } = this.config, last = Math.min(totalStep - tfinal, totalStep - 1), { budget, allocate } = budgetAt(this.config, this.#modules.length, t);
    if (this.#final || t > last || (!allocate && t < last)) return null;
    const left = t === last ? this.config.targetR * this.#modules.length : budget;
    await this.#mask(left, t === last);
    return left;
  }

  async #mask(left: number, final: boolean): Promise<void> {
    const scores = Float64Array.from(await this.scores()), order = Array.from(scores.keys()).sort((a, b) => scores[a] - scores[b] || b - a), off = new Set(order.slice(0, scores.length - left));
    let from = 0;
    for (const { at, mask, parts } of this.#modules) {
      const kept = Array.from({ length: at.site.r }, (_, i) => !off.has(from + i)), E = parts.find(({ role }) => role === "E")?.p;
      from += at.site.r;
      if (E === undefined) continue;
      const host = await E.host(), data = host.data.slice();
      kept.forEach((keep, i) => { if (!keep) data[i] = 0; });
      E.set({ ...host, data });
      if (final) mask.set({ dtype: mask.dtype, shape: mask.shape, data: data.map((_, i) => (kept[i] ? 1 : 0)) });
    }
    this.#final = final;
  }

  /** Ranks by module path, as they are now. */
  async ranks(): Promise<Readonly<Record<string, number>>> {
    const out: Record<string, number> = {};
    for (const { at, mask } of this.#modules) out[at.site.path] = Array.from(await mask.data()).filter((x) => x !== 0).length;
    return out;
  }

  async state(): Promise<AllocatorState> {
    const arrays: Record<string, HostArray> = {};
    for (const [name, s] of this.#named()) { const h = await s.host(); arrays[name] = { ...h, data: h.data.slice() }; }
    return { arrays, final: this.#final };
  }
  /** Takes a state up after `step` steps. @throws FormatError when it does not fit; then nothing has changed */
  load({ arrays, final }: AllocatorState, step: number): void {
    const named = [...this.#named()];
    for (const [name, s] of named) {
      const h = arrays[name];
      if (h === undefined || !sameShape(h.shape, s.shape) || h.dtype !== s.dtype) throw new FormatError(`adalora: ${name} is ${h === undefined ? "missing" : `${h.dtype} [${h.shape.join(", ")}]`} in the saved state`, { op: "RankAllocator.load", key: name, fix: "load it with the adapter that it was saved with" });
    }
    for (const [name, s] of named) s.set({ ...arrays[name], data: arrays[name].data.slice() });
    this.#final = final;
    this.#t.value = step;
  }
  *#named(): Generator<readonly [string, Store]> {
    for (const { at, mask, parts } of this.#modules) {
      yield [`mask.${at.site.path}`, mask];
      for (const { key, mean, deviation } of parts) { yield [`mean.${key}`, mean]; yield [`deviation.${key}`, deviation]; }
    }
  }
}
