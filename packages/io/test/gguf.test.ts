/** GGUF: gguf-py's file read and written again byte for byte, any metadata there and back, and damage of every kind told by file, key and fix. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { ConfigError, FormatError } from "@adjoint/tensor";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { bytesSource, ggufBytes, ggufParts, ggufTypes, isGgufType, openGguf, saveGguf } from "../src/index.ts";
import type { ByteSource, GgufFile, GgufTensor, GgufType, GgufValue } from "../src/index.ts";
import { inFolder } from "./temporary.ts";

const small = new Uint8Array(await readFile(new URL("../../../fixtures/data/quant/small.gguf", import.meta.url)));
const joined = (parts: readonly Uint8Array[]): Uint8Array => new Uint8Array(Buffer.concat(parts));
const open = (bytes: Uint8Array, label = "x.gguf"): Promise<GgufFile> => openGguf(bytesSource(bytes, label));
async function tensorsOf(file: GgufFile): Promise<GgufTensor[]> {
  return Promise.all([...file.entries].map(async ([name, { type, shape }]) => ({ name, type, shape, bytes: await file.read(name) })));
}

describe("gguf-py's file", () => {
  it("metadata of every type, and tensors of every type with row-major shapes", async () => {
    const file = await open(small);
    expect(file.version).toBe(3);
    expect(Object.fromEntries([...file.metadata].map(([key, { value }]) => [key, value]))).toEqual({
      "general.architecture": "llama", "general.name": "small", "llama.block_count": 1, "t.u8": 255, "t.i8": -128, "t.u16": 65535, "t.i16": -32768, "t.i32": -2147483648,
      "t.f32": Math.fround(1e-5), "t.u64": 2n ** 64n - 1n, "t.i64": -(2 ** 40), "t.f64": 0.1, "t.bool": true, "t.strings": ["<s>", "", "é\u{1d11e}"], "t.numbers": [1, -2, 3], "t.floats": [0.5, -0.25],
    });
    expect([...file.entries].map(([name, { type, shape }]) => [name, type, shape])).toEqual([
      ["token_embd.weight", "F16", [2, 160]], ["output_norm.weight", "F32", [7]], ["blk.0.q8_0.weight", "Q8_0", [2, 160]], ["blk.0.q4_0.weight", "Q4_0", [2, 160]],
      ["blk.0.mxfp4.weight", "MXFP4", [2, 160]], ["blk.0.q4_k.weight", "Q4_K", [2, 512]], ["blk.0.q6_k.weight", "Q6_K", [2, 512]], ["blk.0.bf16.weight", "BF16", [2, 3]],
    ]);
    const half = await file.readArray("token_embd.weight"), norm = await file.readArray("output_norm.weight"), brain = await file.readArray("blk.0.bf16.weight");
    expect([half.dtype, half.data.length, norm.dtype, norm.data.length, brain.dtype, brain.shape]).toEqual(["f16", 320, "f32", 7, "bf16", [2, 3]]);
    await expect(file.readArray("blk.0.q8_0.weight")).rejects.toThrow('tensor "blk.0.q8_0.weight" is Q8_0');
    await expect(file.read("blk.0.q9.weight")).rejects.toThrow(FormatError);
  });

  it("is written again byte for byte", async () => {
    const file = await open(small);
    expect(joined(ggufParts(file.metadata, await tensorsOf(file)))).toEqual(small);
  });
});

const names: GgufType[] = Object.keys(ggufTypes).filter(isGgufType);
const int = (min: bigint, max: bigint): fc.Arbitrary<number | bigint> => fc.bigInt({ min, max }).map((v) => (v >= BigInt(Number.MIN_SAFE_INTEGER) && v <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(v) : v));
const text = fc.string({ unit: "binary", maxLength: 6 }).filter((s) => !/\p{Surrogate}/u.test(s));
const scalars = {
  u8: int(0n, 255n), i8: int(-128n, 127n), u16: int(0n, 65535n), i16: int(-32768n, 32767n), u32: int(0n, 2n ** 32n - 1n), i32: int(-(2n ** 31n), 2n ** 31n - 1n), u64: int(0n, 2n ** 64n - 1n), i64: int(-(2n ** 63n), 2n ** 63n - 1n),
  f32: fc.float({ noNaN: true }), f64: fc.double({ noNaN: true }), bool: fc.boolean(), string: text,
} as const;
const kinds = ["u8", "i8", "u16", "i16", "u32", "i32", "u64", "i64", "f32", "f64", "bool", "string"] as const;
const value: fc.Arbitrary<GgufValue> = fc.constantFrom(...kinds).chain((type) => {
  const one: fc.Arbitrary<number | bigint | boolean | string> = scalars[type];
  return fc.oneof(one.map((v): GgufValue => ({ type, value: v })), fc.array(one, { maxLength: 4 }).map((v): GgufValue => ({ type: "array", of: type, value: v })));
});
const tensor = fc.record({ name: text, type: fc.constantFrom(...names), rows: fc.array(fc.integer({ min: 0, max: 3 }), { maxLength: 3 }), blocks: fc.integer({ min: 0, max: 2 }), fill: fc.nat(255) })
  .map(({ name, type, rows, blocks, fill }): GgufTensor => {
    const shape = [...rows, blocks * ggufTypes[type].block];
    return { name, type, shape, bytes: new Uint8Array(ggufBytes(type, shape) ?? 0).fill(fill) };
  });
const file = fc.record({
  metadata: fc.uniqueArray(fc.tuple(text.filter((key) => key !== "general.alignment"), value), { selector: ([key]) => key, maxLength: 5 }).map((pairs) => new Map(pairs)),
  tensors: fc.uniqueArray(tensor, { selector: ({ name }) => name, maxLength: 4 }),
  alignment: fc.constantFrom(undefined, 8, 32, 64, 256),
}).map(({ metadata, tensors, alignment }) => ({ metadata: alignment === undefined ? metadata : new Map<string, GgufValue>([...metadata, ["general.alignment", { type: "u32", value: alignment }]]), tensors }));

describe("laws", () => {
  it("open(parts(x)) = x: metadata, names, types, shapes, bytes, at every alignment", async () => {
    await fc.assert(fc.asyncProperty(file, async ({ metadata, tensors }) => {
      const bytes = joined(ggufParts(metadata, tensors)), read = await open(bytes);
      expect(read.metadata).toEqual(metadata);
      expect(await tensorsOf(read)).toEqual(tensors);
      for (const { offset } of read.entries.values()) expect(offset % read.alignment).toBe(0);
    }), { numRuns: 60 });
  });

  it("a file on disk reads as memory does; only the header and the tensor that is asked for are read", async () => {
    await inFolder(async (dir) => {
      const path = join(dir, "x.gguf"), tensors: GgufTensor[] = ["a", "b"].map((name, i) => ({ name, type: "F32", shape: [50_000], bytes: new Uint8Array(200_000).fill(i + 1) }));
      await saveGguf(path, { "general.architecture": "llama", flag: true, list: { type: "array", of: "string", value: Array.from({ length: 9000 }, (_, i) => `token${i}`) } }, tensors);
      const bytes = new Uint8Array(await readFile(path));
      let read = 0;
      const counted: ByteSource = { ...bytesSource(bytes, "counted"), size: bytes.length, read: async (offset, length) => { read += length; return bytes.subarray(offset, offset + length); } };
      const opened = await openGguf(counted), before = read;
      expect(Buffer.compare(await opened.read("b"), tensors[1].bytes)).toBe(0);
      expect(read - before).toBe(200_000);
      expect(before).toBeLessThanOrEqual(65536 * 7); // the header is 150 kB: 64 + 128 + 256 kB
      const disk = await openGguf(path);
      expect([...disk.entries]).toEqual([...opened.entries]);
      expect(Buffer.compare(await disk.read("a"), tensors[0].bytes)).toBe(0);
      await disk.close();
    });
  });
});

/** A header with one key and one tensor, whose fields may be wrong. */
function made(change: { magic?: number; version?: number; type?: number; axes?: readonly bigint[]; at?: bigint; kind?: number; tensors?: bigint } = {}): Uint8Array {
  const out: number[] = [], u32 = (v: number): void => { out.push(v & 255, (v >>> 8) & 255, (v >>> 16) & 255, v >>> 24); }, u64 = (v: bigint): void => { u32(Number(v & 0xffffffffn)); u32(Number(v >> 32n)); };
  const name = (s: string): void => { u64(BigInt(s.length)); out.push(...Buffer.from(s)); };
  u32(change.magic ?? 0x46554747); u32(change.version ?? 3); u64(change.tensors ?? 1n); u64(1n);
  name("key"); u32(change.kind ?? 4); u32(7);
  const axes = change.axes ?? [4n];
  name("w"); u32(axes.length); axes.forEach(u64); u32(change.type ?? 0); u64(change.at ?? 0n);
  while (out.length % 32 !== 0) out.push(0);
  return Uint8Array.from([...out, ...new Uint8Array(32)]);
}
const message = async (bytes: Uint8Array): Promise<string> => open(bytes, "bad.gguf").then(() => "read", (error: unknown) => { expect(error).toBeInstanceOf(FormatError); return String((error as FormatError).message); });

describe("damage", () => {
  it("the file itself is well", async () => expect(await message(made())).toBe("read"));
  it.each([
    ["no GGUF", { magic: 1 }, 'does not begin with "GGUF"'],
    ["an old version", { version: 1 }, "version 1"],
    ["the other byte order", { version: 0x03000000 }, "little-endian"],
    ["an unknown type", { type: 99 }, 'tensor "w" has the unknown element type 99'],
    ["a row that is no block", { type: 2, axes: [33n] }, 'tensor "w" has rows of 33 elements, Q4_0 has blocks of 32'],
    ["an odd offset", { at: 4n }, 'tensor "w" begins at byte 4'],
    ["an offset beyond the end", { at: 64n }, 'tensor "w" ends at byte'],
    ["a gap before a tensor", { at: 32n, axes: [0n] }, 'tensor "w" begins at byte 32 of the data and leaves a gap before it: 0 was expected'],
    ["too many axes", { axes: [1n, 1n, 1n, 1n, 1n] }, 'tensor "w" has 5 axes'],
    ["a shape beyond the end", { axes: [400n] }, 'tensor "w" ends at byte'],
    ["an impossible shape", { axes: [2n ** 63n] }, 'an axis of tensor "w"'],
    ["an unknown kind of value", { kind: 13 }, '"key" has a value of the unknown type 13'],
    ["a count of tensors", { tensors: 2n ** 60n }, "the number of tensors"],
  ] as const)("%s", async (_, change, expected) => {
    const text = await message(made(change));
    expect(text).toContain("bad.gguf");
    expect(text).toContain(expected);
    expect(text).toContain("fix:");
  });

  it("a file cut anywhere: the header says so, or the first tensor that is not whole", async () => {
    for (let length = 0; length < small.length - 32; length += 7) {
      const text = await message(small.subarray(0, length));
      expect(text).toMatch(/cut/);
      expect(text).toContain("bad.gguf");
    }
  });

  it("an array of strings: one that is not UTF-8, that begins within a character, or that is longer than the file, is told by key", async () => {
    const strings = (...list: readonly (readonly number[])[]): Uint8Array => {
      const plain = joined(ggufParts({ list: { type: "array", of: "string", value: list.map((bytes) => "x".repeat(bytes.length)) } }, []));
      let at = Buffer.from(plain).indexOf("list") + 20;             // name, two kinds, count
      for (const bytes of list) { plain.set(bytes, at + 8); at += 8 + bytes.length; }
      return plain;
    };
    const good = await open(strings([0x61], [], [0xc3, 0xa9], [0xf0, 0x9d, 0x84, 0x9e, 0x62], [0xef, 0xbb, 0xbf]));
    expect(good.metadata.get("list")?.value).toEqual(["a", "", "é", "\u{1d11e}b", "\ufeff"]);
    expect(await message(strings([0x61], [0xff]))).toContain('"list" is not UTF-8');
    expect(await message(strings([0xc3], [0xa9]))).toContain('entry 1 of "list" is not UTF-8');
    expect(await message(strings([0xc3], [0x61]))).toContain('"list" is not UTF-8');
    const long = strings([0x61, 0x62]), at = Buffer.from(long).indexOf("ab") - 8;
    long[at + 4] = 1;
    expect(await message(long)).toContain('entry 0 of "list" is longer than the file');
    long[at + 4] = 0;
    long[at] = 200;
    expect(await message(long)).toContain('inside of its header ("list")');
  });

  it("any byte changed: read, or one clear error, never a crash", async () => {
    const { entries } = await open(small), header = Math.min(...[...entries.values()].map(({ offset }) => offset));
    await fc.assert(fc.asyncProperty(fc.nat(header - 1), fc.nat(255), async (at, byte) => {
      const changed = small.slice();
      changed[at] = byte;
      await message(changed);
    }), { numRuns: 200 });
  });

  it("writing what a type cannot hold", () => {
    expect(() => ggufParts({ a: { type: "u8", value: 256 } }, [])).toThrow(ConfigError);
    expect(() => ggufParts({ a: { type: "u32", value: 0.5 } }, [])).toThrow('"a" is 0.5, no u32');
    expect(() => ggufParts({ a: { type: "string", value: 1 } }, [])).toThrow(ConfigError);
    expect(() => ggufParts({ a: { type: "bool", value: 1 } }, [])).toThrow(ConfigError);
    expect(() => ggufParts({}, [{ name: "w", type: "F32", shape: [2], bytes: new Uint8Array(7) }])).toThrow('tensor "w" has 7 bytes, F32 [2] needs 8');
    expect(() => ggufParts({}, [{ name: "w", type: "Q4_K", shape: [32], bytes: new Uint8Array(18) }])).toThrow("blocks of 256");
    expect(() => ggufParts({}, [1, 2].map(() => ({ name: "w", type: "F32", shape: [0], bytes: new Uint8Array(0) })))).toThrow("twice");
  });
});
