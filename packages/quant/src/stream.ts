/** Quantizing while a file is read: never more than one tensor in full precision, and of large ones only parts. */
import { ConfigError } from "@adjoint/tensor";
import type { HostArray } from "@adjoint/tensor";
import { quantizeArray } from "./array.ts";
import { bitsandbytesWeights, readBitsandbytes } from "./bitsandbytes.ts";
import { blockOf, formatOf } from "./format.ts";
import type { FormatName } from "./format.ts";
import type { Quantized } from "./quantized.ts";
import { PartRoom, hasParts, quantizeParts } from "./parts.ts";
import type { TensorSource } from "./source.ts";

export interface StreamOptions {
  readonly format: FormatName;
  readonly block?: number;
  readonly doubleQuant?: boolean;
  /** which tensors are quantized (default: matrices of floats, but no embedding and no lm_head) */
  readonly quantizes?: (name: string, shape: readonly number[]) => boolean;
}

/** One tensor of a file: quantized, or as it was. */
export type Streamed = { readonly name: string; readonly quantized: Quantized } | { readonly name: string; readonly plain: HostArray };

const floats: readonly string[] = ["f32", "f16", "bf16"];
/** Matrices, except those that QLoRA leaves alone: token embeddings and the head. */
export const isLinearWeight = (name: string, shape: readonly number[]): boolean => shape.length === 2 && name.endsWith(".weight") && !/(^|\.)(embed_tokens|lm_head|wte|wpe|embeddings?)\./.test(name);

/**
 * The tensors of a file one by one, quantized on the way: peak memory is what the caller keeps plus one tensor.
 *
 * Weights that bitsandbytes quantized come as they are, whatever `format` says; their helper keys are not listed.
 * @throws ConfigError for options, before anything is read; FormatError naming tensor and file for weights that are not finite
 * @example for await (const tensor of quantizeStream(await openModelFolder(dir), { format: "nf4", doubleQuant: true })) keep(tensor);
 */
export async function* quantizeStream(source: TensorSource, { format, block, doubleQuant, quantizes = isLinearWeight }: StreamOptions): AsyncGenerator<Streamed, void, undefined> {
  blockOf(formatOf(format), block);
  const made = bitsandbytesWeights(source.entries.keys()), helpers = new Set([...made.values()].flatMap((keys) => keys.slice(1))), room = new PartRoom();
  for (const [name, { dtype, shape }] of source.entries) {
    if (helpers.has(name)) continue;
    if (made.has(name)) yield { name, quantized: await readBitsandbytes(source, name) };
    else if (!quantizes(name, shape)) yield { name, plain: await source.read(name) };
    else if (!floats.includes(dtype)) throw new ConfigError(`${source.label}: tensor "${name}" is ${dtype} and cannot be quantized`, { op: "quantizeStream", key: name, file: source.label, value: dtype, fix: "quantizes(name) must leave it out" });
    else {
      const options = { format, block, doubleQuant, name, file: source.label };
      yield { name, quantized: source.readPart !== undefined && hasParts(dtype) ? await quantizeParts({ dtype, shape, read: (from, into) => source.readPart!(name, from, into) }, options, room) : quantizeArray(await source.read(name), options) };
    }
  }
}
