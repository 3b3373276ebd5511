/** Quantizing a tensor of a file part by part: one is read while the one before is encoded, into memory that stays in the cache. */
import type { DType } from "@adjoint/tensor";
import { encode } from "./quantize.ts";
import type { QuantizeOptions } from "./quantize.ts";
import { sizeOf } from "./quantized.ts";
import type { Quantized } from "./quantized.ts";
import type { Elements } from "./simd.ts";

/** Elements of a part, about. */
const PART = 1 << 20;
const widths = { f32: 4, f16: 2, bf16: 2 } as const;
/** What can be quantized in parts. */
export const hasParts = (dtype: DType): dtype is keyof typeof widths => Object.hasOwn(widths, dtype);

/** A tensor of f32, f16 or bf16 in a file. */
export interface TensorParts {
  readonly dtype: keyof typeof widths;
  readonly shape: readonly number[];
  /** Reads bytes [from, from + into.length) of its elements (little-endian, row-major). */
  read(from: number, into: Uint8Array): Promise<void>;
}

/** Memory for two parts, to be used for one tensor after the other. */
export class PartRoom {
  #rooms: readonly [ArrayBuffer, ArrayBuffer] = [new ArrayBuffer(0), new ArrayBuffer(0)];
  /** Two of so many bytes or more. */
  of(bytes: number): readonly [ArrayBuffer, ArrayBuffer] {
    if (this.#rooms[0].byteLength < bytes) this.#rooms = [new ArrayBuffer(bytes), new ArrayBuffer(bytes)];
    return this.#rooms;
  }
}

/**
 * `quantizeArray` of a tensor that is read in parts, with equal codes: memory holds the codes and two parts of about a million elements.
 *
 * @param room memory of the parts (default: its own); a room serves one call at a time
 * @throws what reading throws; errors of quantize
 */
export async function quantizeParts({ dtype, shape, read }: TensorParts, options: Omit<QuantizeOptions, "dtype">, room: PartRoom = new PartRoom()): Promise<Quantized> {
  const n = sizeOf(shape), width = widths[dtype], encoding = encode(dtype, shape, { ...options, dtype }), each = 2 * encoding.block * Math.max(1, Math.floor(PART / (2 * encoding.block)));
  const rooms = room.of(width * Math.min(n, each));
  const part = async (at: number, k: number): Promise<Elements> => {
    const length = Math.min(each, n - at), buffer = rooms[k & 1];
    await read(at * width, new Uint8Array(buffer, 0, length * width));
    return dtype === "f32" ? new Float32Array(buffer, 0, length) : new Uint16Array(buffer, 0, length);
  };
  let next = n > 0 ? part(0, 0) : null;
  for (let at = 0, k = 0; next !== null; at += each, k++) {
    const x = await next;
    next = at + each < n ? part(at + each, k + 1) : null;
    try {
      encoding.put(x);
    } catch (error) {
      await next?.catch(() => { /* the first error is the one to tell */ }); // the room is free when this rejects
      throw error;
    }
  }
  return encoding.done();
}
