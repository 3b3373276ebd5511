/** Codes, scales and values of bitsandbytes and gguf-py, bit for bit (fixtures/generate/quant.py). */
import { convertArray } from "@adjoint/tensor";
import type { DType, HostArray } from "@adjoint/tensor";
import { golden, goldenTensors } from "@adjoint/testing/fixtures";
import { describe, expect, it } from "vitest";
import { decodeGguf, dequantize, doubleQuantize, dynamicMap, formats, fromGguf, int8Linear, int8Rows, isFormatName, isGgufBlockType, quantize, quantizeArray, toGguf } from "../src/index.ts";

interface Golden {
  readonly blockwise: readonly { readonly key: string; readonly format: string; readonly input: string; readonly block: number }[];
  readonly double: readonly { readonly name: string; readonly offset: number; readonly shape: readonly number[] }[];
  readonly gguf: readonly string[];
  readonly decodeOnly: readonly string[];
}
const rows = golden<Golden>("quant"), all = goldenTensors("quant");
const get = (name: string): HostArray => {
  const found = all.get(name);
  if (found === undefined) throw new Error(`no fixture ${name}`);
  return found;
};
const f32 = (name: string): Float32Array => Float32Array.from(convertArray(get(name).data, get(name).dtype, "f32"));
const u8 = (name: string): Uint8Array => { const { data } = get(name); return new Uint8Array(data.buffer, data.byteOffset, data.byteLength); };
/** Rounds f32 values to a float type and back. */
const rounded = (x: Float32Array, dtype: DType): Float32Array => Float32Array.from(convertArray(convertArray(x, "f32", dtype), dtype, "f32"));

describe("bitsandbytes", () => {
  it("codebooks", () => {
    expect(dynamicMap(true)).toEqual(get("map/dynamic8").data);
    expect(dynamicMap(false)).toEqual(get("map/udynamic8").data);
    expect(formats.nf4.table).toEqual(get("map/nf4").data);
    expect(formats.fp4.table.map((v) => v + 0)).toEqual(f32("map/fp4").map((v) => v + 0)); // -0 where the library has 0
  });

  it.each(rows.blockwise)("$key", ({ key, format, input, block }) => {
    if (!isFormatName(format)) throw new Error(format);
    const x = get(`x/${input}`), q = quantizeArray(x, { format, block });
    const oneZero = (packed: Uint8Array): Uint8Array => (format === "fp4" ? packed.map((b) => ((b >> 4 === 8 ? 0 : b >> 4) << 4) | ((b & 15) === 8 ? 0 : b & 15)) : packed); // FP4's second zero is never written here
    expect(q.codes).toEqual(oneZero(u8(`codes/${key}`)));
    expect(q.scales.values).toEqual(f32(`absmax/${key}`));
    expect(rounded(dequantize(q), x.dtype).map((v) => v + 0)).toEqual(f32(`decoded/${key}`).map((v) => v + 0));
  });

  it("its native CPU kernel looks up a grid of 2^16 values, and is that much farther off", () => {
    for (const { key, format, input, block } of rows.blockwise.filter((row) => row.format.endsWith("dynamic8"))) {
      const ours = u8(`codes/${key}`), native = u8(`native/${key}`), absmax = f32(`absmax/${key}`), map = formats[format === "dynamic8" ? "dynamic8" : "udynamic8"].table;
      f32(`x/${input}`).forEach((v, e) => {
        const scaled = v / absmax[Math.floor(e / block)];
        if (Math.abs(map[native[e]] - scaled) > Math.abs(map[ours[e]] - scaled) + 2 ** -15) throw new Error(`${key}: element ${e}`);
      });
    }
  });

  it.each(rows.double)("double quantization: $name", ({ name, offset, shape }) => {
    const q = quantize(f32(`x/${name}`), shape, { format: "nf4", doubleQuant: true, dtype: "bf16" }), { values, nested } = q.scales;
    expect(q.codes).toEqual(u8(`${name}/codes`));
    expect(nested?.offset).toBe(offset);
    expect(nested?.codes).toEqual(u8(`${name}/absmax`));
    expect(values).toEqual(f32(`${name}/nested`));
    expect(rounded(dequantize(q), "bf16")).toEqual(f32(`${name}/decoded`));
  });

  it("the mean of no scales and of one", () => {
    expect(doubleQuantize(new Float32Array(0)).values.length).toBe(0);
    expect(doubleQuantize(Float32Array.of(3)).nested?.offset).toBe(3);
  });
});

describe("LLM.int8", () => {
  const weight = quantizeArray(get("int8/weight"), { format: "int8", block: 32 });
  it("rows of the weight", () => {
    expect(weight.codes).toEqual(u8("int8/codes"));
    expect(weight.scales.values).toEqual(f32("int8/absmax"));
    const decoded = f32("int8/decoded");
    dequantize(weight).forEach((v, e) => expect(Math.abs(v - decoded[e])).toBeLessThanOrEqual(2 ** -23 * Math.abs(decoded[e])));
  });

  it.each([0, 6])("activations, product and gradient at threshold %d", (threshold) => {
    const x = f32("int8/x"), { rows: q, outliers } = int8Rows(x, [4, 32], { threshold });
    expect(q.codes).toEqual(u8(`int8/${threshold}/codes`));
    expect(q.scales.values).toEqual(f32(`int8/${threshold}/scales`));
    expect(outliers).toEqual(threshold === 0 ? [] : [...get(`int8/${threshold}/outliers`).data]);
    const y = int8Linear(x, 4, weight, { threshold, bias: f32("int8/bias") }), expected = f32(`int8/${threshold}/y`);
    y.forEach((v, i) => expect(Math.abs(v - expected[i])).toBeLessThan(2e-3 * Math.max(1, Math.abs(expected[i])))); // the library rounds to f16
    const w = dequantize(weight), g = f32("int8/g"), dx = f32(`int8/${threshold}/dx`);
    for (let i = 0; i < 4; i++) for (let j = 0; j < 32; j++) {
      let sum = 0;
      for (let o = 0; o < 16; o++) sum += g[i * 16 + o] * w[o * 32 + j];
      expect(Math.abs(sum - dx[i * 32 + j])).toBeLessThan(2e-3 * Math.max(1, Math.abs(sum)));
    }
  });
});

describe("gguf-py", () => {
  it.each(rows.gguf)("%s: encodes and decodes", (type) => {
    if (!isGgufBlockType(type)) throw new Error(type);
    const name = ({ Q8_0: "q8_0", Q4_0: "q4_0", MXFP4: "mxfp4" } as const)[type as "Q8_0"], { shape } = get("x/gguf");
    const q = quantize(f32("x/gguf"), shape, { format: name });
    expect(toGguf(q)).toEqual({ type, bytes: u8(`gguf/${type}`) });
    expect(fromGguf(type, u8(`gguf/${type}`), shape)).toEqual(q);
    expect(dequantize(q).map((v) => v + 0)).toEqual(f32(`gguf/${type}/decoded`).map((v) => v + 0));
  });

  it.each(rows.decodeOnly)("%s: decodes", (type) => {
    const { shape } = get(`gguf/${type}/decoded`);
    const bytes = u8(`gguf/${type}`), zeros = (x: Float32Array): Float32Array => x.map((v) => v + 0);       // a zero without its sign
    expect(zeros(decodeGguf(type, bytes, shape))).toEqual(zeros(f32(`gguf/${type}/decoded`)));
    if (!isGgufBlockType(type)) throw new Error(type);
    expect(toGguf(fromGguf(type, bytes, shape))).toEqual({ type, bytes });
  });

  it("the anchors of a line from -1 to 1", () => {
    const line = Float32Array.from({ length: 32 }, (_, i) => -1 + (2 * i) / 31);
    const hex = (name: "q4_0" | "q8_0"): string => Buffer.from(toGguf(quantize(line, [32], { format: name })).bytes).toString("hex");
    expect(hex("q4_0")).toBe("0030809191a2a2b3b3c4c4d5d5e6e6f7f7f8");
    expect(hex("q8_0")).toBe("08208189919aa2aab2bac3cbd3dbe3ecf4fc040c141d252d353d464e565e666f777f");
  });
});
