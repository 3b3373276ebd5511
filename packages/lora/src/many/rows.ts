/**
 * A mixed batch: each row of the leading axis names its adapter, or none. Which row has which is data (i32), so that another assignment is no
 * other plan, and everything is differentiable: what an adapter gets is the sum over its own rows.
 */
import { type Context, type ModuleAdapter, within } from "@adjoint/nn";
import { ConfigError, dropout, fromHost, gather, type Key, randomUniform, ShapeError, show, type Tensor } from "@adjoint/tensor";
import type { AdapterMethod } from "../adapter.ts";
import type { AdapterTree } from "../attachments.ts";
import { flora } from "../methods/flora.ts";
import { floraRows } from "./flora-rows.ts";
import { lowRank } from "../methods/low-rank.ts";
import { lowRankRows } from "./low-rank-rows.ts";
import { parametersOf } from "../targets/modules.ts";
import { along, lostRows, type Mixer, partTensors, perRow, type RowAdapter, type RowForm, type RowPart, type RowUse, untouched, words } from "./row-parts.ts";

/** Methods with a form of their own for mixed batches; any other is computed for the whole batch and kept where it belongs. */
const mixers: ReadonlyMap<AdapterMethod, Mixer> = new Map<AdapterMethod, Mixer>([[lowRank, lowRankRows], [flora, floraRows]]);

const forms: readonly RowForm[] = ["masked", "gathered"];

/** The stream of a site's mask, or null where nothing drops; the same as for an adapter alone. */
function maskKey({ attachment: { site } }: RowPart, rates: Iterable<number>, context: Context): Key | null {
  if (context.train !== true || site.kind === "embedding" || site.kind === "other" || [...rates].every((p) => p === 0)) return null;
  const { key } = within(context, `lora/${site.path}`);
  if (key !== undefined) return key;
  throw new ConfigError("lora_dropout needs random numbers while training", { key: "lora_dropout", fix: 'pass { train: true, key: { seed, stream: "dropout", step } } with a step that counts, or set train to false' });
}

/** One mask for the batch, in each row with its adapter's probability: the mask that the adapter alone would draw for the whole batch. */
function dropRows(parts: readonly RowPart[], use: RowUse, context: Context): Tensor {
  const { x } = use, rates = new Map(parts.map((p) => [p.slot, p.adapter.dropout])), key = maskKey(parts[0], rates.values(), context), [first] = rates.values();
  if (key === null) return x;
  if ([...rates.values()].every((p) => p === first)) return dropout(x, first, key);
  const dtype = x.dtype === "f64" ? "f64" : "f32", map = (f: (p: number) => number): Map<number, number> => new Map([...rates].map(([slot, p]) => [slot, f(p)]));
  const keep = perRow(map((p) => Math.round((1 - p) * 2 ** 24) * 2 ** -24), 1, use, "f32"), gain = perRow(map((p) => 1 / (1 - p)), 1, use, dtype);
  return randomUniform(x.shape, key).lt(along(keep, x.rank)).where(x.mul(along(gain, x.rank)), 0);
}

/** What the part's method gives for the whole batch in its rows, y in the others. */
function select(part: RowPart, use: RowUse, context: Context): Tensor {
  const { attachment: { method, site }, adapter } = part, { y, index } = use, key = maskKey(part, [adapter.dropout], context);
  const changed = method.forward(partTensors(part), site, { ...use, key, dropout: key === null ? 0 : adapter.dropout });
  return along(index.eq(part.slot), y.rank).where(changed.dtype === y.dtype ? changed : changed.cast(y.dtype), y);
}

/** Applies to each row the adapter that it names. */
export class MixedRows implements ModuleAdapter {
  /** all tensors that train, in sight of compiled steps */
  readonly adapters: Readonly<Record<string, AdapterTree>>;
  /** slot of each row: 0 for the base, k for the k-th adapter */
  readonly index: Tensor;
  readonly #slots: number;
  readonly #form: RowForm | undefined;
  readonly #of = new Map<object, RowPart[]>();
  /** @throws ShapeError unless the index is a list of i32 that names these adapters; ConfigError for a method that changes weights (an LSTM's) */
  constructor(adapters: readonly RowAdapter[], index: Tensor, form?: RowForm) {
    if (index.rank !== 1 || index.dtype !== "i32") throw new ShapeError(`rows: the index must be i32 [batch], got ${index.dtype} ${show(index.shape)}`, { op: "rows", shapes: [index.shape], fix: "set.index(names) makes it" });
    const outside = index.value === null ? undefined : Array.from(index.value.data).find((i) => i < 0 || i > adapters.length);
    if (outside !== undefined) throw new ConfigError(`rows: the index names adapter ${outside}, and there are ${adapters.length}`, { ...words, key: "index", value: outside });
    if (form !== undefined && !forms.includes(form)) throw new ConfigError(`rows: form = ${JSON.stringify(form)} is none`, { op: "rows", key: "form", value: form, fix: `use ${forms.join(" or ")}, or leave it out` });
    this.adapters = Object.fromEntries(adapters.map((a) => [a.name, a.tree]));
    this.index = index;
    this.#slots = adapters.length + 1;
    this.#form = form;
    adapters.forEach((adapter, i) => {
      for (const attachment of adapter.attachments) {
        const { site, method, module } = attachment;
        if (method.weight !== undefined) throw new ConfigError(`adapter ${adapter.name}: ${method.name} on ${site.path} changes a weight, which all rows share`, { op: "rows", key: site.path, value: method.name, fix: "run this adapter alone: set.with(name)" });
        this.#of.set(module, [...(this.#of.get(module) ?? []), { slot: i + 1, attachment, adapter }]);
      }
    });
  }
  output(module: object, x: Tensor, y: Tensor, context: Context): Tensor {
    const parts = this.#of.get(module);
    if (parts === undefined) return y;
    const own = this.#rowsOf(parts[0], x, context), frozen = parametersOf(module);
    let result = y;
    for (const round of rounds(parts)) {
      for (const [mixer, group] of byMixer(round)) {
        const use: RowUse = { x, y: result, module, frozen, ...own, slots: this.#slots, ...(this.#form === undefined ? {} : { form: this.#form }) };
        result = mixer === null ? group.reduce((sum, part) => select(part, { ...use, y: sum }, context), untouched(use)) : mixer(group, { ...use, x: dropRows(group, use, context) });
      }
    }
    return result.dtype === y.dtype ? result : result.cast(y.dtype);
  }
  /** The slot of each entry of x's leading axis, and NaN for those without one; a model that flattened [batch, T] before this layer says so in the context. */
  #rowsOf({ attachment: { site } }: RowPart, x: Tensor, { flattened }: Context): Pick<RowUse, "index" | "lost"> {
    const n = this.index.size, lost = lostRows(this.index, this.#slots);
    if (flattened !== undefined) {
      const at = Int32Array.from({ length: x.shape[0] }, (_, i) => Math.min(n - 1, Math.floor((flattened.from + i) / flattened.per)));
      const spread = (perRow: Tensor): Tensor => gather(perRow.reshape([n, 1]), fromHost({ dtype: "i32", shape: [at.length], data: at })).reshape([at.length]);
      return { index: spread(this.index), lost: spread(lost) };
    }
    if (x.shape[0] !== n) {
      throw new ShapeError(`rows: ${site.path} got ${show(x.shape)}, and ${n} rows name an adapter`, { op: "rows", key: site.path, shapes: [x.shape, this.index.shape], fix: "name one adapter for each entry of the batch's first axis" });
    }
    return { index: this.index, lost };
  }
}

/** The first attachments of every adapter on this module, then the second ones ...: each adapter's own order. */
function rounds(parts: readonly RowPart[]): readonly (readonly RowPart[])[] {
  const out: RowPart[][] = [], seen = new Map<number, number>();
  for (const part of parts) {
    const k = seen.get(part.slot) ?? 0;
    seen.set(part.slot, k + 1);
    (out[k] ??= []).push(part);
  }
  return out;
}

function byMixer(parts: readonly RowPart[]): ReadonlyMap<Mixer | null, readonly RowPart[]> {
  const groups = new Map<Mixer | null, RowPart[]>();
  for (const part of parts) {
    const { method, site } = part.attachment, mixer = site.kind === "conv" ? null : (mixers.get(method) ?? null);
    groups.set(mixer, [...(groups.get(mixer) ?? []), part]);
  }
  return groups;
}
