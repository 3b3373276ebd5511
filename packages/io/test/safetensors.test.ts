/** Safetensors: round trips of any bits, Python's files byte for byte, and damage of every kind told by file, tensor, value and fix. */
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { decode, FormatError, store, tensor } from "@adjoint/tensor";
import type { HostArray } from "@adjoint/tensor";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { FileError, openSafetensors, parseSafetensors, saveSafetensors, serializeNpy, serializeSafetensors } from "../src/index.ts";
import { allBits, bits, metadatas, tensorFiles } from "./arbitraries.ts";
import { inFolder } from "./temporary.ts";

const fixture = (name: string): URL => new URL(`../../../fixtures/data/io/${name}`, import.meta.url);
interface Row { readonly name: string; readonly shape: number[]; readonly values: (string | number)[] }
const golden: { plain: Row[]; wide: Row[] } = JSON.parse(await readFile(fixture("golden.json"), "utf8"));

const numbers = ({ dtype, data }: HostArray): number[] => Array.from(data, (x) => decode(dtype, x));
const headerOf = (file: Uint8Array): string => new TextDecoder().decode(file.subarray(8, 8 + Number(new DataView(file.buffer, file.byteOffset).getBigUint64(0, true))));

/** A file with any header text, valid or not. */
function fileOf(header: string, data: number): Uint8Array {
  const json = new TextEncoder().encode(header);
  const file = new Uint8Array(8 + json.length + data);
  new DataView(file.buffer).setBigUint64(0, BigInt(json.length), true);
  file.set(json, 8);
  return file;
}

describe("laws", () => {
  it("parse(serialize(x)) = x, bit for bit, with any names and metadata", () => {
    fc.assert(fc.property(tensorFiles, metadatas, (tensors, metadata) => {
      const parsed = parseSafetensors(serializeSafetensors(tensors, metadata), "memory");
      expect(allBits(parsed.tensors)).toEqual(allBits(tensors));
      expect(parsed.metadata).toEqual(metadata ?? {});
    }));
  });

  it("the data begins and lies aligned: every array of a written file is a view", () => {
    fc.assert(fc.property(tensorFiles, (tensors) => {
      const file = serializeSafetensors(tensors);
      for (const { data } of parseSafetensors(file, "memory").tensors.values()) expect(data.buffer).toBe(file.buffer);
    }));
  });

  it("serialize does not depend on the order of the tensors", () => {
    fc.assert(fc.property(tensorFiles, (tensors) => {
      expect(serializeSafetensors(new Map([...tensors].reverse()))).toEqual(serializeSafetensors(tensors));
    }));
  });

  it("a file, a Blob and memory read the same, in any order, also from an odd address", async () => {
    await inFolder(async (dir) => {
      const path = join(dir, "x.safetensors");
      await fc.assert(fc.asyncProperty(tensorFiles, metadatas, async (tensors, metadata) => {
        await saveSafetensors(path, tensors, metadata);
        const bytes = new Uint8Array(await readFile(path));
        const odd = new Uint8Array(bytes.length + 1);
        odd.set(bytes, 1);
        expect(allBits(parseSafetensors(odd.subarray(1), "odd").tensors)).toEqual(allBits(tensors));
        for (const source of [path, new Blob([bytes])]) {
          const file = await openSafetensors(source);
          expect(file.metadata).toEqual(metadata ?? {});
          expect([...file.entries.keys()].sort()).toEqual([...tensors.keys()].sort());
          for (const [name, tensor] of [...tensors].reverse()) {
            expect(bits(await file.read(name))).toEqual(bits(tensor));
            expect(file.entries.get(name)).toMatchObject({ dtype: tensor.dtype, shape: [...tensor.shape], byteLength: tensor.data.byteLength });
            const whole = new Uint8Array(tensor.data.buffer, tensor.data.byteOffset, tensor.data.byteLength), from = Math.min(3, whole.length), into = new Uint8Array(Math.max(0, whole.length - from - 2) + 2).fill(9), part = into.subarray(1, into.length - 1);
            await file.readPart(name, from, part);
            expect(part).toEqual(whole.slice(from, from + part.length));
            expect([into[0], into[into.length - 1]]).toEqual([9, 9]);
            await expect(file.readPart(name, whole.length - part.length + 1, part)).rejects.toThrow(/bytes, \[/);
          }
          await file.close();
        }
      }), { numRuns: 30 });
    });
  });

  /** Either refused with a FormatError that names the file, or a file whose every byte is accounted for. */
  const refusedOrWhole = (bytes: Uint8Array): void => {
    let parsed;
    try {
      parsed = parseSafetensors(bytes, "damaged.safetensors");
    } catch (error) {
      expect(error).toBeInstanceOf(FormatError);
      expect(error).toMatchObject({ message: expect.stringContaining("damaged.safetensors"), details: { file: "damaged.safetensors", key: expect.any(String), fix: expect.any(String) } });
      return;
    }
    const again = parseSafetensors(serializeSafetensors(parsed.tensors, parsed.metadata), "again");
    expect(allBits(again.tensors)).toEqual(allBits(parsed.tensors));
  };

  it("any change of header bytes is refused or gives a whole file", () => {
    fc.assert(fc.property(tensorFiles, metadatas, fc.array(fc.tuple(fc.nat(), fc.nat(255)), { minLength: 1, maxLength: 3 }), (tensors, metadata, changes) => {
      const file = serializeSafetensors(tensors, metadata);
      const header = 8 + headerOf(file).length;
      for (const [at, byte] of changes) file[at % header] = byte;
      refusedOrWhole(file);
    }), { numRuns: 500 });
  });

  it("any change of one character of the header's structure is refused or gives a whole file", () => {
    const structural = fc.constantFrom(..."{}[]:,\"0123456789-.eE FIUB\\");
    fc.assert(fc.property(tensorFiles.filter((t) => t.size > 0), fc.nat(), structural, fc.boolean(), (tensors, at, char, insert) => {
      const file = serializeSafetensors(tensors);
      const header = headerOf(file);
      const k = at % header.length;
      const data = file.length - 8 - new TextEncoder().encode(header).length;
      refusedOrWhole(fileOf(header.slice(0, k) + char + header.slice(insert ? k : k + 1), data));
    }), { numRuns: 500 });
  });

  it("a file cut anywhere, or with bytes added, is refused", () => {
    fc.assert(fc.property(tensorFiles, fc.nat(), (tensors, at) => {
      const file = serializeSafetensors(tensors);
      expect(() => parseSafetensors(file.subarray(0, at % file.length), "cut")).toThrow(FormatError);
      const longer = new Uint8Array(file.length + 1 + (at % 9));
      longer.set(file);
      expect(() => parseSafetensors(longer, "longer")).toThrow(FormatError);
    }));
  });

  it("random bytes are refused", () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 64 }), refusedOrWhole));
  });
});

it("what is no array of the host is refused with the way to one", () => {
  for (const bad of [store(tensor([1])), tensor([1]), undefined, new Float32Array(1), { dtype: "f32", shape: [1], data: [1] }]) {
    for (const write of [() => Reflect.apply(serializeSafetensors, null, [{ w: bad }]) as unknown, () => Reflect.apply(serializeNpy, null, [bad]) as unknown]) expect(write).toThrow(/is no array of the host\n {2}fix: pass \{ dtype, shape, data \}; of a tensor or a store, await t\.host\(\)/);
  }
});

describe("files of Python's safetensors", () => {
  it.each(["plain", "wide"] as const)("%s: names, shapes and values", async (which) => {
    const file = await openSafetensors(fixture(`${which}.safetensors`));
    expect([...file.entries.keys()].sort()).toEqual(golden[which].map((row) => row.name).sort());
    for (const { name, shape, values } of golden[which]) {
      const tensor = await file.read(name);
      expect(tensor.shape).toEqual(shape);
      expect(numbers(tensor)).toEqual(values.map(Number));
    }
    await file.close();
  });

  it("written again they are equal, byte for byte", async () => {
    const bytes = new Uint8Array(await readFile(fixture("plain.safetensors")));
    const { tensors, metadata } = parseSafetensors(bytes, "plain.safetensors");
    expect(metadata).toEqual({ format: "pt" });
    expect(serializeSafetensors(new Map([...tensors].reverse()), metadata)).toEqual(bytes);
  });

  it("element types without a host form are widened to 32-bit integers", async () => {
    const file = await openSafetensors(fixture("wide.safetensors"));
    await file.close();
    expect(Object.fromEntries([...file.entries].map(([name, entry]) => [name, `${entry.stored} ${entry.dtype} ${entry.byteLength}`]))).toEqual({ i64: "I64 i32 24", u64: "U64 u32 16", i16: "I16 i32 4", u16: "U16 u32 6" });
  });

  it("a 64-bit integer that does not fit is refused by tensor, element and value", async () => {
    const file = await openSafetensors(fixture("too-big.safetensors"));
    await expect(file.read("big")).rejects.toMatchObject({ name: "FormatError", message: expect.stringMatching(/too-big\.safetensors: tensor "big" is I64 and element 1 is 2147483648/), details: { key: "big", value: 2147483648n } });
    await file.close();
  });
});

describe("damage, one kind at a time", () => {
  const f32 = (shape: string, offsets: string): string => `{"dtype":"F32","shape":${shape},"data_offsets":${offsets}}`;
  const cases: [what: string, header: string, data: number, key: string, message: RegExp][] = [
    ["not JSON", "{", 0, "header", /not JSON/],
    ["not an object", "[1]", 0, "the header", /not a JSON object/],
    ["a tensor that is no object", '{"a":[]}', 0, 'tensor "a"', /tensor "a" is not a JSON object/],
    ["an unknown element type", '{"a":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]}}', 1, "a", /dtype "F8_E4M3".*\n.*fix: convert it to one of U64, I64/],
    ["an element type of Object's prototype", '{"a":{"dtype":"toString","shape":[],"data_offsets":[0,1]}}', 1, "a", /dtype "toString"/],
    ["no element type", '{"a":{"shape":[1],"data_offsets":[0,1]}}', 1, "a", /dtype undefined/],
    ["a negative size", `{"a":${f32("[-1]", "[0,4]")}}`, 4, "a", /shape \[-1\]/],
    ["a fractional size", `{"a":${f32("[1.5]", "[0,4]")}}`, 4, "a", /shape \[1.5\]/],
    ["a huge size", `{"a":${f32("[9007199254740991,9007199254740991]", "[0,4]")}}`, 4, "a", /needs 3\.2/],
    ["too few bytes for the shape", `{"a":${f32("[2]", "[0,4]")}}`, 4, "a", /takes 4 bytes but F32 \[2\] needs 8/],
    ["offsets that run backwards", `{"a":${f32("[1]", "[4,0]")}}`, 4, "a", /data_offsets \[4,0\]/],
    ["three offsets", `{"a":${f32("[1]", "[0,4,8]")}}`, 4, "a", /data_offsets/],
    ["a gap", `{"a":${f32("[1]", "[0,4]")},"b":${f32("[1]", "[8,12]")}}`, 12, "b", /"b" begins at byte 8 of the data and leaves a gap/],
    ["a gap at the start", `{"a":${f32("[1]", "[4,8]")}}`, 8, "a", /leaves a gap/],
    ["an overlap", `{"a":${f32("[2]", "[0,8]")},"b":${f32("[1]", "[4,8]")}}`, 8, "b", /overlaps/],
    ["data that ends early", `{"a":${f32("[2]", "[0,8]")}}`, 7, "a", /the file is cut/],
    ["data that goes on", `{"a":${f32("[2]", "[0,8]")}}`, 9, "file length", /tensors end at/],
    ["a name twice", `{"a":${f32("[1]", "[0,4]")},"\\u0061":${f32("[1]", "[0,4]")}}`, 4, "header", /"a" is there twice/],
    ["a key twice", '{"a":{"dtype":"F32","dtype":"I32","shape":[1],"data_offsets":[0,4]}}', 4, "header", /"dtype" is there twice/],
    ["an unknown key", '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"scale":1}}', 4, "a", /unknown key "scale"/],
    ["metadata that is no string", '{"__metadata__":{"n":1}}', 0, "__metadata__.n", /is 1, not a string/],
    ["metadata that is no object", '{"__metadata__":"x"}', 0, "__metadata__", /not a JSON object/],
  ];
  it.each(cases)("%s", (_, header, data, key, message) => {
    const parse = () => parseSafetensors(fileOf(header, data), "bad.safetensors");
    expect(parse).toThrow(FormatError);
    expect(parse).toThrow(message);
    expect(parse).toThrow(expect.objectContaining({ message: expect.stringMatching(/^bad\.safetensors: [^]*\n {2}fix: /), details: expect.objectContaining({ file: "bad.safetensors", key }) }));
  });

  it.each([["empty", 0n, 0], ["shorter than a length", 0n, 7], ["with a length past its end", 100n, 20], ["with an absurd length", 1n << 63n, 64]])("a file that is %s", (_, length, size) => {
    const bytes = new Uint8Array(Math.max(8, size));
    new DataView(bytes.buffer).setBigUint64(0, length, true);
    expect(() => parseSafetensors(bytes.subarray(0, size), "bad.safetensors")).toThrow(expect.objectContaining({ details: expect.objectContaining({ file: "bad.safetensors", key: "header length" }) }));
  });

  it("a header that is not UTF-8", () => {
    const file = fileOf('{"a":1}', 0);
    file[11] = 0xff;
    expect(() => parseSafetensors(file, "bad.safetensors")).toThrow(/not UTF-8/);
  });

  it("a BOOL that is neither 0 nor 1", () => {
    const file = fileOf('{"mask":{"dtype":"BOOL","shape":[2],"data_offsets":[0,2]}}', 2);
    file[file.length - 1] = 2;
    expect(() => parseSafetensors(file, "bad.safetensors")).toThrow(/"mask" is BOOL and element 1 is 2/);
  });

  it("very deep nesting neither hangs nor crashes", () => {
    expect(() => parseSafetensors(fileOf(`{"a":${"[".repeat(1e6)}${"]".repeat(1e6)}}`, 0), "deep")).toThrow(FormatError);
    expect(() => parseSafetensors(fileOf(`{"${"a\\n".repeat(3e5)}":1}`, 0), "long")).toThrow(FormatError);
  });
});

describe("files on the disk", () => {
  it("a missing file, a folder and a file cut while open are told by path", async () => {
    await inFolder(async (dir) => {
      await expect(openSafetensors(join(dir, "none.safetensors"))).rejects.toMatchObject({ name: "FileError", message: expect.stringMatching(/none\.safetensors: no such file/) });
      await expect(openSafetensors(dir)).rejects.toThrow(FileError);
      const path = join(dir, "x.safetensors");
      const bytes = serializeSafetensors({ a: { dtype: "f32", shape: [64], data: new Float32Array(64) } });
      await writeFile(path, bytes);
      const file = await openSafetensors(path);
      await writeFile(path, bytes.subarray(0, bytes.length - 4));
      await expect(file.read("a")).rejects.toMatchObject({ name: "FormatError", details: { file: path } });
      await file.readPart("a", 0, new Uint8Array(252));
      await expect(file.readPart("a", 0, new Uint8Array(256))).rejects.toMatchObject({ name: "FormatError", details: { file: path } });
      await expect(file.readPart("b", 0, new Uint8Array(1))).rejects.toThrow(/there is no tensor "b"/);
      await expect(file.read("b")).rejects.toMatchObject({ name: "FormatError", message: expect.stringMatching(/there is no tensor "b"\n.*such as "a"/), details: { key: "b" } });
      await file.close();
    });
  });

  it.each([
    ["the metadata's name", { __metadata__: { dtype: "f32", shape: [1], data: new Float32Array(1) } }],
    ["half a surrogate pair", { "\ud800": { dtype: "f32", shape: [1], data: new Float32Array(1) } }],
    ["a wrong length", { a: { dtype: "f32", shape: [2], data: new Float32Array(1) } }],
    ["a wrong width", { a: { dtype: "f16", shape: [1], data: new Float32Array(1) } }],
  ] satisfies [string, Record<string, HostArray>][])("writing refuses %s", (_, tensors) => {
    expect(() => serializeSafetensors(tensors)).toThrow(FormatError);
  });
});
