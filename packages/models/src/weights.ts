/** Where a model's weights come from: tensors by the names of Hugging Face, as numbers or as codes. */
import type { SafetensorsFile } from "@adjoint/io";
import { bitsandbytesWeights, hasParts, type Quantized, readBitsandbytes, type TensorParts } from "@adjoint/quant";
import type { HostArray } from "@adjoint/tensor";

/** A weight on the host. */
export type Weight = HostArray | Quantized;
export const isCodes = (w: Weight): w is Quantized => "codes" in w;

/** An open file of weights, read one by one. */
export interface WeightFile {
  /** path or name, for errors */
  readonly label: string;
  /** null: known once it is read */
  readonly shapes: ReadonlyMap<string, readonly number[] | null>;
  read(name: string): Promise<Weight>;
  /** a tensor that can be read in parts; null: only as a whole */
  parts?(name: string): TensorParts | null;
  close(): Promise<void>;
}

/** The same file with its tensors under other names. */
export function renamed(file: WeightFile, name: (theirs: string) => string): WeightFile {
  const theirs = new Map([...file.shapes.keys()].map((key) => [name(key), key]));
  return { ...file, shapes: new Map([...file.shapes].map(([key, shape]) => [name(key), shape])), read: (ours) => file.read(theirs.get(ours) ?? ours), parts: (ours) => file.parts?.(theirs.get(ours) ?? ours) ?? null };
}

/** Safetensors: plain tensors, and the 4-bit and 8-bit weights that bitsandbytes wrote, with the tensors that belong to them. */
export function tensorWeights(file: SafetensorsFile): WeightFile {
  const made = bitsandbytesWeights(file.entries.keys()), beside = new Set([...made.values()].flatMap((keys) => keys.slice(1)));
  const shapes = new Map([...file.entries].filter(([name]) => !beside.has(name)).map(([name, { shape }]) => [name, made.has(name) ? null : shape]));
  const parts = (name: string): TensorParts | null => {
    const entry = made.has(name) ? undefined : file.entries.get(name);
    return entry !== undefined && hasParts(entry.dtype) ? { dtype: entry.dtype, shape: entry.shape, read: (from, into) => file.readPart(name, from, into) } : null;
  };
  return { label: file.label, shapes, parts, read: (name) => (made.has(name) ? readBitsandbytes(file, name) : file.read(name)), close: () => file.close() };
}
