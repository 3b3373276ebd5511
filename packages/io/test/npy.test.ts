/** npy: round trips of any bits, NumPy's files byte for byte, damage refused. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { decode, dtypes, FormatError } from "@adjoint/tensor";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { parseNpy, readNpy, saveNpy, serializeNpy } from "../src/index.ts";
import { bits, hostArrays } from "./arbitraries.ts";
import { inFolder } from "./temporary.ts";

const fixture = (name: string): URL => new URL(`../../../fixtures/data/io/${name}`, import.meta.url);
const golden: { npy: { file: string; shape: number[]; values: number[] }[] } = JSON.parse(await readFile(fixture("golden.json"), "utf8"));
const writable = dtypes.filter((dtype) => dtype !== "bf16");

describe("npy", () => {
  it("law: parse(serialize(x)) = x, bit for bit", () => {
    fc.assert(fc.property(hostArrays(writable), (array) => {
      expect(bits(parseNpy(serializeNpy(array), "memory"))).toEqual(bits(array));
    }));
  });

  it("law: a file that is cut or has bytes added is refused", () => {
    fc.assert(fc.property(hostArrays(writable), fc.nat(), (array, at) => {
      const file = serializeNpy(array);
      expect(() => parseNpy(file.subarray(0, at % file.length), "cut")).toThrow(FormatError);
      const longer = new Uint8Array(file.length + 1);
      longer.set(file);
      expect(() => parseNpy(longer, "longer")).toThrow(FormatError);
    }));
  });

  it("law: any change of header bytes is refused or gives an array of the bytes that are there", () => {
    fc.assert(fc.property(hostArrays(writable), fc.nat(127), fc.nat(255), (array, at, byte) => {
      const file = serializeNpy(array);
      file[at] = byte;
      try {
        const { shape, data } = parseNpy(file, "damaged.npy");
        expect(data.length).toBe(shape.reduce((n, d) => n * d, 1));
      } catch (error) {
        expect(error).toBeInstanceOf(FormatError);
        expect(error).toMatchObject({ details: { file: "damaged.npy", key: expect.any(String), fix: expect.any(String) } });
      }
    }), { numRuns: 500 });
  });

  it.each(golden.npy.map((row) => [row.file, row] as const))("reads NumPy's %s", async (file, { shape, values }) => {
    const array = await readNpy(fixture(file));
    expect(array.shape).toEqual(shape);
    expect(Array.from(array.data, (x) => decode(array.dtype, x))).toEqual(values);
  });

  it.each(["f8", "f4", "f2", "i4", "i1", "u4", "u1", "b1", "none"])("writes %s.npy as NumPy does, byte for byte", async (name) => {
    const bytes = new Uint8Array(await readFile(fixture(`${name}.npy`)));
    expect(serializeNpy(parseNpy(bytes, name))).toEqual(bytes);
    await inFolder(async (dir) => {
      await saveNpy(join(dir, "x.npy"), await readNpy(fixture(`${name}.npy`)));
      expect(new Uint8Array(await readFile(join(dir, "x.npy")))).toEqual(bytes);
    });
  });

  it("refuses what has no form, with the fix", () => {
    expect(() => serializeNpy({ dtype: "bf16", shape: [1], data: new Uint16Array(1) })).toThrow(/NumPy has no bf16\n.*convert to f32/);
    expect(() => serializeNpy({ dtype: "f32", shape: [2], data: new Float32Array(1) })).toThrow(FormatError);
    const file = serializeNpy({ dtype: "f32", shape: [1], data: new Float32Array(1) });
    const big = Buffer.from(file).toString("latin1").replace("<f4", ">f4");
    expect(() => parseNpy(Uint8Array.from(big, (c) => c.charCodeAt(0)), "big.npy")).toThrow(/descr is ">f4"\n.*astype\("<f4"\)/);
    const structured = Buffer.from(file).toString("latin1").replace("'<f4',", "[('a','<f4')],");
    expect(() => parseNpy(Uint8Array.from(structured, (c) => c.charCodeAt(0)), "s.npy")).toThrow(FormatError);
  });
});
