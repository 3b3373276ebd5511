/** Model folders: one file or shards read the same; what is missing or contradicts the index is named. */
import { mkdir, readdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { HostArray } from "@adjoint/tensor";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { modelFiles, openModelFolder, saveSafetensors, writeDirectoryAtomic } from "../src/index.ts";
import { allBits, bits, tensorFiles } from "./arbitraries.ts";
import { inFolder } from "./temporary.ts";

const INDEX = "model.safetensors.index.json";
const fixture = new URL("../../../fixtures/data/llama/", import.meta.url);

async function readAll(dir: string | URL): Promise<Map<string, HostArray>> {
  const model = await openModelFolder(dir);
  const all = new Map<string, HostArray>();
  for (const [name, { byteLength }] of model.entries) {
    const whole = await model.read(name), bytes = new Uint8Array(byteLength);
    await model.readPart(name, 0, bytes);
    if ("f32 f16 bf16".includes(whole.dtype)) expect(bytes).toEqual(new Uint8Array(whole.data.buffer, whole.data.byteOffset, whole.data.byteLength));
    all.set(name, whole);
  }
  await model.close();
  return all;
}

const tensor = (...values: number[]): HostArray => ({ dtype: "f32", shape: [values.length], data: Float32Array.from(values) });

/** Two shards and an index, any of which a test may damage. */
async function sharded(dir: string, weightMap: unknown = { a: "one.safetensors", b: "two.safetensors" }): Promise<void> {
  await saveSafetensors(join(dir, "one.safetensors"), { a: tensor(1) });
  await saveSafetensors(join(dir, "two.safetensors"), { b: tensor(2), extra: tensor(3) });
  await writeFile(join(dir, INDEX), JSON.stringify({ metadata: { total_size: 8 }, weight_map: weightMap }));
}

describe("model folders", () => {
  it("law: shards of any size hold what one file holds", async () => {
    await inFolder(async (dir) => {
      const path = join(dir, "model");
      await fc.assert(fc.asyncProperty(tensorFiles.filter((t) => t.size > 0), fc.constantFrom(1, 8, 64, 1e9), async (tensors, maxShardBytes) => {
        await writeDirectoryAtomic(path, modelFiles(tensors, { maxShardBytes }), { replaceAll: true });
        expect(allBits(await readAll(path))).toEqual(allBits(tensors));
        const bytes = [...tensors.values()].map((t) => t.data.byteLength).reduce((n, size) => n + size, 0);
        expect((await readdir(path)).includes(INDEX)).toBe((await readdir(path)).length > 1);
        if (bytes > 0 && maxShardBytes >= bytes) expect(await readdir(path)).toEqual(["model.safetensors"]);
      }), { numRuns: 40 });
    });
  });

  it("reads the shards that transformers wrote", async () => {
    const model = await openModelFolder(new URL("tiny-sharded/", fixture));
    expect(model.entries.size).toBeGreaterThan(10);
    for (const [name, entry] of model.entries) {
      const { shape, data } = await model.read(name);
      expect(shape).toEqual(entry.shape);
      expect(data.every(Number.isFinite)).toBe(true);
    }
    expect(model.metadata).toEqual({ format: "pt" });
    await model.close();
  });

  it("reads a tensor that the index forgot, and takes the file before the index", async () => {
    await inFolder(async (dir) => {
      await sharded(dir);
      const model = await openModelFolder(dir);
      expect([...model.entries.keys()].sort()).toEqual(["a", "b", "extra"]);
      expect(bits(await model.read("extra"))).toEqual(bits(tensor(3)));
      await expect(model.read("c")).rejects.toMatchObject({ name: "FormatError", details: { key: "c", file: dir } });
      await model.close();
      await saveSafetensors(join(dir, "model.safetensors"), { whole: tensor(1) });
      expect([...(await readAll(dir)).keys()]).toEqual(["whole"]);
    });
  });

  it("names a missing shard, a missing tensor, a contradiction, a damaged shard", async () => {
    await inFolder(async (dir) => {
      await sharded(dir, { a: "one.safetensors", b: "one.safetensors", extra: "two.safetensors" });
      await expect(openModelFolder(dir)).rejects.toMatchObject({ name: "FormatError", details: { key: "b", value: "one.safetensors", file: join(dir, INDEX) } });
      await sharded(dir);
      await saveSafetensors(join(dir, "one.safetensors"), { a: tensor(1), extra: tensor(4) });
      await expect(openModelFolder(dir)).rejects.toMatchObject({ name: "FormatError", details: { key: "extra" } });
      await writeFile(join(dir, "two.safetensors"), "not a tensor file");
      await expect(openModelFolder(dir)).rejects.toMatchObject({ name: "FormatError", details: { file: join(dir, "two.safetensors") } });
      await rm(join(dir, "two.safetensors"));
      await expect(openModelFolder(dir)).rejects.toMatchObject({ name: "FileError", message: expect.stringContaining("1 of 2 shards are missing: two.safetensors"), details: { file: join(dir, "two.safetensors") } });
    });
  });

  it.each([[{ a: "../one.safetensors" }], [{ a: 1 }], [{}], [[]], ["x"], [undefined]])("refuses the weight_map %j", async (weightMap) => {
    await inFolder(async (dir) => {
      await sharded(dir, weightMap ?? null);
      await expect(openModelFolder(dir)).rejects.toMatchObject({ name: "FormatError", details: { file: join(dir, INDEX), key: expect.stringContaining("weight_map") } });
    });
  });

  it("says what is there when there are no weights it can read", async () => {
    await inFolder(async (dir) => {
      await expect(openModelFolder(join(dir, "none"))).rejects.toMatchObject({ name: "FileError", message: expect.stringContaining("no such folder") });
      await expect(openModelFolder(dir)).rejects.toThrow(/neither model.safetensors nor/);
      await writeFile(join(dir, "pytorch_model.bin"), "");
      await expect(openModelFolder(dir)).rejects.toThrow(/holds pytorch_model.bin: save the model again with save_pretrained/);
      await expect(openModelFolder(join(dir, "pytorch_model.bin"))).rejects.toThrow(/is a file/);
      await mkdir(join(dir, "sub"));
    });
  });
});
