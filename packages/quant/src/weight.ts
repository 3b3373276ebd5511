/** A quantized weight as a tensor: its stores hold codes and scales, and a product decodes them where the device can. */
import { type BlockTensors, type DType, FormatError, type HostArray, Store, type Tensor, type TypedArray, dequantize, derived } from "@adjoint/tensor";
import type { Format } from "./format.ts";
import { type Quantized, type Scales, checkQuantized } from "./quantized.ts";

/** What is behind a quantized weight. */
export interface QuantizedStores extends Pick<Quantized, "format" | "shape" | "block"> {
  readonly format: Format;
  /** of the tensor that was quantized */
  readonly dtype: DType;
  /** u8: the codes; those of the scales and of the minima too, where they were quantized again */
  readonly codes: Store;
  readonly scaleCodes: Store | null;
  readonly minCodes: Store | null;
  /** f32: the code's table, then scales and minima, each followed by its own table and offset where it was quantized again */
  readonly numbers: Store;
  /** all of them */
  readonly stores: readonly Store[];
  /** of the stores */
  readonly bytes: number;
  /** Codes and scales on the host. */
  host(): Promise<Quantized>;
  /** Takes over other codes and scales of the same format, shape and block: at once, for all who use the weight. */
  set(q: Quantized): void;
}

const known = new WeakMap<Tensor, QuantizedStores>();

/** f32 numbers of a weight in one run, with the place of each part in it. */
interface Parts { readonly data: Float32Array; readonly table: Part; readonly scales: ScaleParts; readonly mins: ScaleParts | null }
type Part = readonly [from: number, to: number];
interface ScaleParts { readonly values: Part; readonly block: number; readonly table: Part; readonly offset: Part }

function layout({ format, scales, mins }: Pick<Quantized, "format" | "scales" | "mins">): Parts {
  const all: Float32Array[] = [];
  let at = 0;
  const part = (xs: Float32Array): Part => { all.push(xs); return [at, (at += xs.length)]; };
  const numbers = ({ values, nested }: Scales): ScaleParts => ({ values: part(values), block: nested?.block ?? 0, table: part(nested?.table ?? none), offset: part(nested ? Float32Array.of(nested.offset) : none) });
  const table = part(format.table), parts = { table, scales: numbers(scales), mins: mins ? numbers(mins) : null }, data = new Float32Array(at);
  at = 0;
  for (const xs of all) { data.set(xs, at); at += xs.length; }
  return { data, ...parts };
}
const none = new Float32Array(0);
const flat = (data: TypedArray): HostArray => ({ dtype: data instanceof Uint8Array ? "u8" : "f32", shape: [data.length], data });

/**
 * W as a tensor of `q.shape` and dtype f32, W(e) = fround(table[code(e)]·scale(⌊e / block⌋)) - min(⌊e / block⌋), with nothing in memory but codes and scales.
 *
 * A product decodes while it packs on a device that can (`Backend.decodes`); elsewhere, and where W is wanted whole, it is decoded for the plan that wants it.
 * Nothing in it has a gradient.
 * @throws FormatError if the parts of q contradict each other
 */
export function quantizedWeight(q: Quantized, name = ""): Tensor {
  checkQuantized(q, { name });
  const { format, shape, block, dtype } = q, { data, ...parts } = layout(q);
  const of = (data: TypedArray, what: string): Store => new Store(flat(data), name && `${name}.${what}`);
  const codes = of(q.codes, "codes"), numbers = of(data, "numbers"), scaleCodes = q.scales.nested ? of(q.scales.nested.codes, "scaleCodes") : null, minCodes = q.mins?.nested ? of(q.mins.nested.codes, "minCodes") : null;
  const stores = [codes, numbers, scaleCodes, minCodes].filter((s) => s !== null), { table, scales, mins } = parts;
  // nothing below may hold q: its arrays go once they are on the device
  const weight = derived(stores, () => {
    const cut = ([from, to]: Part): Tensor => numbers.slice(0, from, to);
    const tensors = (p: ScaleParts, own: Store | null): BlockTensors => ({ values: cut(p.values), ...(own ? { nested: { codes: own, table: cut(p.table), block: p.block, offset: cut(p.offset) } } : {}) });
    return dequantize(codes, { shape, bits: format.bits, block, table: cut(table), scales: tensors(scales, scaleCodes), ...(mins ? { mins: tensors(mins, minCodes) } : {}) });
  }, name);
  known.set(weight, new Stores(name, { format, shape, block, dtype }, parts, { codes, numbers, scaleCodes, minCodes }, stores));
  return weight;
}

class Stores implements QuantizedStores {
  readonly format: Format; readonly shape: readonly number[]; readonly block: number; readonly dtype: DType;
  readonly codes: Store; readonly scaleCodes: Store | null; readonly minCodes: Store | null; readonly numbers: Store;
  readonly stores: readonly Store[];
  readonly #name: string;
  readonly #parts: Omit<Parts, "data">;
  constructor(name: string, what: Pick<Quantized, "format" | "shape" | "block" | "dtype">, parts: Omit<Parts, "data">, own: Pick<QuantizedStores, "codes" | "numbers" | "scaleCodes" | "minCodes">, stores: readonly Store[]) {
    this.format = what.format; this.shape = what.shape; this.block = what.block; this.dtype = what.dtype;
    this.codes = own.codes; this.numbers = own.numbers; this.scaleCodes = own.scaleCodes; this.minCodes = own.minCodes;
    this.stores = stores;
    this.#name = name;
    this.#parts = parts;
  }
  get bytes(): number { return this.stores.reduce((n, s) => n + s.bytes, 0); }
  async host(): Promise<Quantized> {
    const u8 = async (s: Store): Promise<Uint8Array> => new Uint8Array(await s.data()), { format, shape, block, dtype } = this;
    const all = new Float32Array(await this.numbers.data());
    const scalesOf = async ({ values, block: nested, table, offset }: ScaleParts, own: Store | null): Promise<Scales> => ({ values: all.slice(...values), ...(own ? { nested: { codes: await u8(own), table: all.slice(...table), block: nested, offset: all[offset[0]] } } : {}) });
    const { scales, mins } = this.#parts;
    return { format, shape, block, dtype, codes: await u8(this.codes), scales: await scalesOf(scales, this.scaleCodes), ...(mins ? { mins: await scalesOf(mins, this.minCodes) } : {}) };
  }
  set(q: Quantized): void {
    const { format, shape, block } = this, name = this.#name;
    checkQuantized(q, { name });
    const { data, ...parts } = layout(q);
    if (q.format.name !== format.name || q.block !== block || q.shape.join() !== shape.join() || JSON.stringify(parts) !== JSON.stringify(this.#parts)) {
      throw new FormatError(`${name || "a quantized weight"}: ${q.format.name} [${q.shape.join(", ")}] in blocks of ${q.block} does not replace ${format.name} [${shape.join(", ")}] in blocks of ${block}`, { key: name, fix: "quantize it as the weight was: format, block size and double quantization" });
    }
    this.codes.set(flat(q.codes));
    this.numbers.set(flat(data));
    if (q.scales.nested) this.scaleCodes?.set(flat(q.scales.nested.codes));
    if (q.mins?.nested) this.minCodes?.set(flat(q.mins.nested.codes));
  }
}

/** The stores behind a weight that `quantizedWeight` made; null for any other tensor. */
export const quantizedOf = (weight: Tensor): QuantizedStores | null => known.get(weight) ?? null;
