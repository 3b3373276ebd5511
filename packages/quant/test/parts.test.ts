/** A tensor that is read in parts gets the codes of the whole one, wherever its parts end; and what goes wrong in one is told as of the whole. */
import { FormatError, convertArray } from "@adjoint/tensor";
import type { HostArray } from "@adjoint/tensor";
import { describe, expect, it } from "vitest";
import { PartRoom, dequantize, quantizeArray, quantizeParts } from "../src/index.ts";
import type { FormatName, TensorParts } from "../src/index.ts";

const PART = 1 << 20;
const x = Float32Array.from({ length: 2 * PART + 12345 }, (_, i) => Math.sin(i * 12.9898) * 2 ** ((i >> 9) % 12 - 8));
const array = (dtype: "f32" | "f16" | "bf16", n = x.length): HostArray => ({ dtype, shape: [n], data: dtype === "f32" ? x.slice(0, n) : convertArray(x.subarray(0, n), "f32", dtype) });
const bytesOf = ({ data }: HostArray): Uint8Array => new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
/** As a file: each read comes a little later. */
function parts(whole: HostArray, seen?: (from: number, into: Uint8Array) => void): TensorParts {
  if (whole.dtype !== "f32" && whole.dtype !== "f16" && whole.dtype !== "bf16") throw new Error(whole.dtype);
  return { dtype: whole.dtype, shape: whole.shape, read: async (from, into) => {
    await new Promise((done) => setImmediate(done));
    seen?.(from, into);
    into.set(bytesOf(whole).subarray(from, from + into.length));
  } };
}
const same = (a: Uint8Array | Float32Array, b: Uint8Array | Float32Array): boolean => Buffer.compare(Buffer.from(a.buffer, a.byteOffset, a.byteLength), Buffer.from(b.buffer, b.byteOffset, b.byteLength)) === 0;

describe("quantizing in parts", () => {
  it("is quantizing the whole, of every input, in blocks of any size and with short ends", async () => {
    const room = new PartRoom(), cases: readonly (readonly ["f32" | "f16" | "bf16", FormatName, number | undefined, number])[] = [
      ["f32", "nf4", undefined, x.length], ["bf16", "nf4", 4096, x.length], ["f16", "q4_0", undefined, x.length], ["bf16", "q8_0", undefined, 2 * PART],
      ["bf16", "int8", 11008, x.length], ["f32", "int8", PART + 3, x.length], ["f16", "int4", 77, PART + 78], ["bf16", "mxfp4", undefined, 31], ["f32", "fp4", undefined, 0],
    ];
    for (const [dtype, format, block, n] of cases) {
      const whole = array(dtype, n), options = { format, block, doubleQuant: format === "nf4" }, a = await quantizeParts(parts(whole), options, room), b = quantizeArray(whole, options);
      const which = `${format} of ${dtype}, ${n} in blocks of ${block}`;
      expect(same(a.codes, b.codes), which).toBe(true);
      expect(same(a.scales.values, b.scales.values), which).toBe(true);
      expect({ ...a, codes: 0, scales: 0 }).toEqual({ ...b, codes: 0, scales: 0 });
      if (n < 100) expect(dequantize(a)).toEqual(dequantize(b));
    }
  });

  it("holds two parts and reads one while the other is encoded", async () => {
    const seen: [from: number, memory: ArrayBufferLike, length: number][] = [], whole = array("bf16");
    await quantizeParts(parts(whole, (from, into) => seen.push([from, into.buffer, into.length])), { format: "nf4" });
    expect(seen.map(([from, , length]) => [from, length])).toEqual([[0, 2 * PART], [2 * PART, 2 * PART], [4 * PART, 2 * 12345]]);
    expect(seen[2][1]).toBe(seen[0][1]);
    expect(seen[1][1]).not.toBe(seen[0][1]);
  });

  it("names the element of the whole, tells what reading tells, and leaves the room alone afterwards", async () => {
    const whole = array("f32"), bad = { ...whole, data: x.slice() }, room = new PartRoom();
    bad.data[PART + 70] = NaN;
    let reading = 0, most = 0;
    const slow: TensorParts = { ...parts(bad), read: async (from, into) => {
      most = Math.max(most, ++reading);
      await parts(bad).read(from, into);
      reading--;
    } };
    await expect(quantizeParts(slow, { format: "nf4", name: "W", file: "m.safetensors" }, room)).rejects.toThrow(`m.safetensors: tensor "W": element ${PART + 70} is NaN`);
    expect([reading, most]).toEqual([0, 1]);
    for (const at of [0, 4 * PART, 8 * PART]) {
      const cut: TensorParts = { ...parts(whole), read: (from, into) => (from === at ? Promise.reject(new FormatError("cut")) : parts(whole).read(from, into)) };
      await expect(quantizeParts(cut, { format: "int8" }, room)).rejects.toThrow("cut");
    }
    await expect(quantizeParts(parts(whole), { format: "nf4", block: 3 }, room)).rejects.toThrow(/block 3/);
    expect(same((await quantizeParts(parts(whole), { format: "int8" }, room)).codes, quantizeArray(whole, { format: "int8" }).codes)).toBe(true);
  });
});
