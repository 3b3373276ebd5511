/** Checkpoints of bitsandbytes both ways, whole GGUF files, quantizing while a file streams, and bad input of every kind. */
import { ConfigError, FormatError, fromBf16, fromF16, toBf16, toF16 } from "@adjoint/tensor";
import type { HostArray } from "@adjoint/tensor";
import { bytesSource, ggufTypes, openGguf, openSafetensors, serializeSafetensors } from "@adjoint/io";
import type { SafetensorsFile } from "@adjoint/io";
import { fixture, golden, goldenTensors } from "@adjoint/testing/fixtures";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { bitsandbytesTensors, bitsandbytesWeights, bytesOfQuantized, checkQuantized, decodedGgufTypes, decodeGguf, dequantize, formatOf, fromGguf, isGgufBlockType, quantize, quantizeArray, quantizeStream, readBitsandbytes, toGguf } from "../src/index.ts";
import type { GgufBlockType, Quantized } from "../src/index.ts";
import { pythonFloat } from "../src/quant-state.ts";

const all = goldenTensors("quant"), rows = golden<{ serialised: { name: string; format: "nf4" | "fp4"; nested: boolean }[] }>("quant").serialised;
const x = (name: string): HostArray => all.get(name) ?? (() => { throw new Error(name); })();
const memory = (tensors: Record<string, HostArray>, label = "model.safetensors"): Promise<SafetensorsFile> => openSafetensors(bytesSource(serializeSafetensors(tensors), label));

describe("bitsandbytes's files", () => {
  it.each(rows)("$name: read, equal to our own, and written again byte for byte", async ({ name, format, nested }) => {
    const file = await openSafetensors(fixture(`quant/${name}.safetensors`)), saved = goldenTensors("quant", `${name}.safetensors`);
    expect([...bitsandbytesWeights(file.entries.keys()).keys()]).toEqual(["layer.weight"]);
    const q = await readBitsandbytes(file, "layer.weight"), own = quantizeArray(x(`x/${name}`), { format, doubleQuant: nested });
    expect(q).toEqual(own);
    const tensors = bitsandbytesTensors("layer.weight", own);
    expect(new Map(Object.entries(tensors).sort())).toEqual(new Map([...saved].sort(([a], [b]) => (a < b ? -1 : 1))));
    await file.close();
  });

  it("8 bits: rows with SCB, there and back", async () => {
    const file = await openSafetensors(fixture("quant/int8.safetensors")), q = await readBitsandbytes(file, "layer.weight");
    expect(q).toEqual(quantizeArray(x("int8/weight"), { format: "int8", block: 32 }));
    expect(new Map(Object.entries(bitsandbytesTensors("layer.weight", q)))).toEqual(goldenTensors("quant", "int8.safetensors"));
    await file.close();
  });

  it("codes stored as another type (bnb_4bit_quant_storage) are the same bytes", async () => {
    const q = quantize(Float32Array.from({ length: 256 }, (_, i) => Math.sin(i)), [4, 64], { format: "nf4" }), keys = bitsandbytesTensors("w", q);
    const wide: HostArray = { dtype: "bf16", shape: [64, 1], data: new Uint16Array(q.codes.slice().buffer) };
    expect(await readBitsandbytes(await memory({ ...keys, w: wide }), "w")).toEqual(q);
  });

  it("Python's repr of floats", () => {
    const cases: [number, string][] = [[1.99609375, "1.99609375"], [1, "1.0"], [0, "0.0"], [-0, "-0.0"], [1e-5, "1e-05"], [0.0001, "0.0001"], [1.5e-7, "1.5e-07"], [1e16, "1e+16"], [1e15, "1000000000000000.0"], [-123.25, "-123.25"], [1e-100, "1e-100"], [0.04, "0.04"]];
    for (const [v, s] of cases) expect(pythonFloat(v)).toBe(s);
    fc.assert(fc.property(fc.double({ noNaN: true, noDefaultInfinity: true }), (v) => { expect(Number(pythonFloat(v))).toBe(v); }));
  });
});

describe("bad input names tensor and file", () => {
  const q = quantize(Float32Array.from({ length: 128 }, (_, i) => i - 64), [2, 64], { format: "nf4", doubleQuant: true }), keys = bitsandbytesTensors("w", q);
  const state = "w.quant_state.bitsandbytes__nf4", text = new TextDecoder().decode(Uint8Array.from(keys[state].data));
  const json = (s: string): HostArray => ({ dtype: "u8", shape: [s.length], data: new TextEncoder().encode(s) });
  const without = (key: string): Record<string, HostArray> => Object.fromEntries(Object.entries(keys).filter(([name]) => name !== key));
  it.each<[string, Record<string, HostArray>, string]>([
    ["a shape that contradicts the codes", { ...keys, [state]: json(text.replace("[2, 64]", "[3, 64]")) }, "has 64 bytes of codes, nf4 [3, 64] needs 96"],
    ["a block size that contradicts the scales", { ...keys, [state]: json(text.replace('"blocksize": 64', '"blocksize": 32')) }, "has 2 nested scales, [2, 64] in blocks of 32 needs 4"],
    ["a block size that is none", { ...keys, [state]: json(text.replace('"blocksize": 64', '"blocksize": 48')) }, "blocksize 48"],
    ["an unknown kind", { ...without(state), "w.quant_state.bitsandbytes__af4": json(text.replace('"nf4"', '"af4"')) }, 'quant_type "af4" is not known'],
    ["a kind that contradicts its key", { ...keys, [state]: json(text.replace('"nf4"', '"fp4"')) }, 'quant_type "fp4" under the key of nf4'],
    ["no JSON", { ...keys, [state]: json("{") }, "is no JSON"],
    ["no dtype", { ...keys, [state]: json(text.replace("float32", "int9")) }, 'dtype "int9"'],
    ["a missing key", without("w.absmax"), '"w.absmax" is missing'],
    ["a missing nested key", without("w.nested_absmax"), '"w.nested_absmax" is missing'],
    ["nested scales that are not announced", { ...keys, [state]: json(text.replace(/, "nested_blocksize.*/, "}")) }, "says nothing of nested scales"],
    ["another codebook", { ...keys, "w.quant_map": { dtype: "f32", shape: [16], data: new Float32Array(16) } }, "quant_map is not that of nf4"],
    ["a scale that is not finite", { ...keys, "w.nested_absmax": { dtype: "f32", shape: [1], data: Float32Array.of(NaN) } }, "scale 0 is NaN"],
    ["no bitsandbytes at all", { w: { dtype: "f32", shape: [1], data: Float32Array.of(1) } }, "is not quantized by bitsandbytes"],
  ])("%s", async (_, tensors, expected) => {
    const error: unknown = await readBitsandbytes(await memory(tensors, "some/model.safetensors"), "w").catch((e: unknown) => e);
    expect(error).toBeInstanceOf(FormatError);
    const { message } = error as FormatError;
    expect(message).toContain(expected);
    expect(message).toContain("some/model.safetensors");
    expect(message).toContain('"w"');
    expect(message).toContain("fix:");
  });

  it("8 bits: other layouts and types", async () => {
    const eight = bitsandbytesTensors("a.weight", quantize(new Float32Array(6).fill(1), [2, 3], { format: "int8", block: 3 }));
    await expect(readBitsandbytes(await memory({ ...eight, "a.weight_format": { dtype: "u8", shape: [], data: Uint8Array.of(2) } }), "a.weight")).rejects.toThrow("weight_format 2");
    await expect(readBitsandbytes(await memory({ ...eight, "a.SCB": { dtype: "f32", shape: [1], data: Float32Array.of(1) } }), "a.weight")).rejects.toThrow("has 1 scales, [2, 3] in blocks of 3 needs 2");
    await expect(readBitsandbytes(await memory({ ...eight, "a.weight": { dtype: "u8", shape: [6], data: new Uint8Array(6) } }), "a.weight")).rejects.toThrow("beside an SCB");
  });

  it.each([NaN, Infinity, -Infinity])("weights with %d", async (value) => {
    const data = new Float32Array(200).fill(1);
    data[131] = value;
    for (const format of ["nf4", "int8", "q4_0", "mxfp4", "dynamic8"] as const) expect(() => quantize(data, [2, 100], { format, name: "layers.0.w", file: "m.safetensors" })).toThrow(`m.safetensors: tensor "layers.0.w": element 131 is ${value}`);
    const file = await memory({ "layers.0.weight": { dtype: "bf16", shape: [2, 100], data: Uint16Array.from(data, toBf16) } }, "m.safetensors");
    await expect((async () => { for await (const each of quantizeStream(file, { format: "nf4" })) expect(each).toBeDefined(); })()).rejects.toThrow('m.safetensors: tensor "layers.0.weight": element 131');
  });

  it("options", async () => {
    const one = Float32Array.of(1), run = (options: object) => (): unknown => quantize(one, [1], { format: "nf4", ...options });
    expect(run({ format: "nf5" })).toThrow('format "nf5" is not known');
    expect(() => formatOf("toString")).toThrow(ConfigError);
    expect(run({ block: 48 })).toThrow("block 48 is not a block size of nf4");
    expect(run({ format: "int8", block: 0 })).toThrow("block 0");
    expect(run({ format: "q4_k" })).toThrow("q4_k can be read but not made");
    expect(run({ format: "q8_0", doubleQuant: true })).toThrow("doubleQuant: the scales of q8_0 are f16");
    expect(() => quantize(new Float32Array(64), [64], JSON.parse(`{"format":"nf4","double_quant":true}`))).toThrow("quantize: there is no option double_quant");
    expect(() => quantize(one, [2], { format: "nf4", name: "w" })).toThrow('tensor "w" has 1 values, [2] needs 2');
    expect(() => quantize(Float32Array.of(1e9), [1], { format: "q8_0", name: "w" })).toThrow("does not fit in f16");
    expect(() => toGguf(quantize(one, [1], { format: "nf4" }), { name: "w" })).toThrow('tensor "w": nf4 is no GGUF type');
    expect(() => toGguf(quantize(one, [1], { format: "q8_0" }))).toThrow("blocks of 32");
    expect(() => bitsandbytesTensors("w.weight", quantize(one, [1, 1], { format: "q8_0" }))).toThrow("bitsandbytes has no q8_0");
    expect(() => bitsandbytesTensors("w.weight", quantize(new Float32Array(4), [2, 2], { format: "int8" }))).toThrow("one f32 scale a row");
    await expect((async () => { for await (const each of quantizeStream(await memory({}), { format: "nf4", block: 3 })) expect(each).toBeDefined(); })()).rejects.toThrow(ConfigError);
  });

  it("GGUF blocks: a wrong number of bytes, a scale that is none", () => {
    expect(() => fromGguf("Q8_0", new Uint8Array(33), [32], { name: "w", file: "a.gguf" })).toThrow('a.gguf: tensor "w": has 33 bytes, Q8_0 [32] needs 34');
    expect(() => fromGguf("Q8_0", new Uint8Array(34).fill(0xff), [32], { name: "w" })).toThrow("scale 0 is NaN");
    expect(() => fromGguf("MXFP4", new Uint8Array(17).fill(255), [32])).toThrow("scale 0 is NaN");
    for (const [type, bytes, elements, at] of [["Q4_1", 20, 32, 2], ["Q5_0", 22, 32, 0], ["Q5_1", 24, 32, 0], ["Q2_K", 84, 256, 82], ["Q3_K", 110, 256, 108], ["Q5_K", 176, 256, 2], ["Q6_K", 210, 256, 208], ["IQ4_XS", 136, 256, 0]] as const) {
      const blocks = new Uint8Array(2 * bytes);
      expect(decodeGguf(type, blocks, [2 * elements]).every((x) => x === 0)).toBe(true);
      blocks.set([0x00, 0xfc], bytes + at);
      expect(() => decodeGguf(type, blocks, [2 * elements], { name: "w", file: "a.gguf" })).toThrow(/^a\.gguf: tensor "w": (scale|min) 1 is -?Infinity/);
      expect(() => decodeGguf(type, blocks.subarray(1), [2 * elements], { name: "w", file: "a.gguf" })).toThrow(`a.gguf: tensor "w": has ${2 * bytes - 1} bytes, ${type} [${2 * elements}] needs ${2 * bytes}`);
    }
    expect(() => decodeGguf("IQ2_XS", new Uint8Array(74), [256], { name: "w", file: "a.gguf" })).toThrow('a.gguf: tensor "w": GGUF type IQ2_XS cannot be decoded');
    expect(() => toGguf({ ...fromGguf("Q6_K", new Uint8Array(210), [256]), scales: { values: new Float32Array(16) } }, { name: "w" })).toThrow('tensor "w": q6_k without scales of its sub-blocks');
    expect(() => checkQuantized({ ...quantize(new Float32Array(64), [64], { format: "nf4" }), shape: [128] }, { name: "w" })).toThrow("needs 64");
  });
});

describe("GGUF files", () => {
  it("tensors of a file are quantized tensors, and back the same bytes", async () => {
    const file = await openGguf(fixture("quant/small.gguf"));
    for (const [name, { type, shape }] of file.entries) {
      if (!isGgufBlockType(type)) continue;
      const bytes = await file.read(name), q = fromGguf(type, bytes, shape, { name, file: file.label });
      expect(toGguf(q, { name })).toEqual({ type, bytes });
      expect(dequantize(q).map((v) => v + 0)).toEqual(x(`gguf/${type}/decoded`).data.map((v) => v + 0)); // a scale of -0 where the library has 0
    }
    await file.close();
  });

  it("any bytes with finite scales come back, in every type", () => {
    const heads: Readonly<Record<GgufBlockType, readonly number[]>> = { Q8_0: [0], Q4_0: [0], MXFP4: [], Q4_1: [0, 2], Q5_0: [0], Q5_1: [0, 2], Q2_K: [80, 82], Q3_K: [108], Q4_K: [0, 2], Q5_K: [0, 2], Q6_K: [208], IQ4_NL: [0], IQ4_XS: [0] };
    fc.assert(fc.property(fc.constantFrom(...decodedGgufTypes.filter(isGgufBlockType)), fc.infiniteStream(fc.nat(255)), (type, stream) => {
      const { block: elements, bytes: size } = ggufTypes[type], bytes = Uint8Array.from({ length: 3 * size }, () => stream.next().value ?? 0);
      for (let b = 0; b < 3; b++) for (const at of heads[type]) bytes[b * size + at + 1] &= 0xbb; // an exponent bit is 0
      if (type === "MXFP4") for (let b = 0; b < 3; b++) bytes[b * size] %= 255;
      expect(toGguf(fromGguf(type, bytes, [3, elements])).bytes).toEqual(bytes);
    }), { numRuns: 80 });
  });
});

describe("streaming", () => {
  it("half floats are quantized as their widened values are, whatever the block", () => {
    const data = Uint16Array.from({ length: 70_007 }, (_, i) => toBf16(Math.sin(i) / (1 + (i % 7)))), halves = Uint16Array.from(data, (bits) => toF16(fromBf16(bits)));
    for (const [format, block] of [["nf4", 64], ["int8", 77], ["q8_0", 32]] as const) {
      for (const [dtype, stored, value] of [["bf16", data, fromBf16], ["f16", halves, fromF16]] as const) {
        const own = quantizeArray({ dtype, shape: [data.length], data: stored }, { format, block, doubleQuant: format === "nf4" }), whole = quantize(Float32Array.from(stored, value), [data.length], { format, block, doubleQuant: format === "nf4", dtype });
        expect(Buffer.compare(own.codes, whole.codes)).toBe(0);
        expect({ ...own, codes: 0 }).toEqual({ ...whole, codes: 0 });
      }
    }
    data[69_000] = 0x7fc0;
    expect(() => quantizeArray({ dtype: "bf16", shape: [data.length], data }, { format: "nf4", name: "w" })).toThrow('tensor "w": element 69000 is NaN');
    expect(() => quantizeArray({ dtype: "i32", shape: [1], data: new Int32Array(1) }, { format: "nf4", name: "w" })).toThrow('tensor "w": i32 cannot be quantized');
  });


  const tensors: Record<string, HostArray> = {
    "model.embed_tokens.weight": { dtype: "f32", shape: [5, 64], data: new Float32Array(320).fill(0.5) },
    "model.norm.weight": { dtype: "f32", shape: [64], data: new Float32Array(64).fill(1) },
    ...Object.fromEntries(Array.from({ length: 8 }, (_, i) => [`model.layers.${i}.mlp.up_proj.weight`, { dtype: "f32", shape: [64, 64], data: Float32Array.from({ length: 64 * 64 }, (_, e) => Math.sin(e + i)) } satisfies HostArray])),
  };

  it("linears are quantized as by themselves; norms, embeddings and the head stay", async () => {
    const seen = new Map<string, Quantized | HostArray>();
    for await (const each of quantizeStream(await memory(tensors), { format: "nf4", doubleQuant: true })) seen.set(each.name, "quantized" in each ? each.quantized : each.plain);
    expect([...seen.keys()].sort()).toEqual(Object.keys(tensors).sort());
    for (const [name, tensor] of Object.entries(tensors)) expect(seen.get(name)).toEqual(name.includes("proj") ? quantizeArray(tensor, { format: "nf4", doubleQuant: true }) : tensor);
  });

  it("weights that were quantized come as they are, without their helper keys", async () => {
    const q = quantize(new Float32Array(128).fill(1), [2, 64], { format: "fp4" }), rest: HostArray = { dtype: "f32", shape: [2], data: new Float32Array(2) };
    const names: string[] = [];
    for await (const each of quantizeStream(await memory({ ...bitsandbytesTensors("a.weight", q), "b.bias": rest }), { format: "nf4" })) {
      names.push(each.name);
      if ("quantized" in each) expect(each.quantized).toEqual(q);
    }
    expect(names.sort()).toEqual(["a.weight", "b.bias"]);
  });

  it("holds one tensor of the file at a time: nothing is read before it is asked for, and no array that was read is kept", async () => {
    const file = await memory(tensors);
    let reads = 0, kept = 0, peak = 0, most = 0;
    const source = { label: file.label, entries: file.entries, read: async (name: string): Promise<HostArray> => {
      const { dtype, shape, data } = await file.read(name), own = data.slice(); // as from a disk: bytes of its own
      reads++;
      most = Math.max(most, own.byteLength);
      peak = Math.max(peak, kept + own.byteLength);
      return { dtype, shape, data: own };
    } };
    let steps = 0, whole = 0;
    for await (const each of quantizeStream(source, { format: "nf4", quantizes: (_, shape) => shape.length === 2 })) {
      expect(reads).toBe(++steps);
      kept += "quantized" in each ? bytesOfQuantized(each.quantized) : each.plain.data.byteLength;
      whole += ("quantized" in each ? each.quantized.shape : each.plain.shape).reduce((n, d) => n * d, 4);
      if ("quantized" in each) for (const part of [each.quantized.codes, each.quantized.scales.values]) expect(part.buffer.byteLength).toBe(part.byteLength); // no view of what was read
    }
    expect(peak).toBeLessThanOrEqual(kept + most);
    expect(kept).toBeLessThan(whole / 7);
  });
});
