/** Every write is all or nothing: the sweep lets each operation of each writer fail once, and looks at the disk. */
import { writeFile, mkdir, readFile, rename } from "node:fs/promises";
import { join } from "node:path";
import { ConfigError } from "@adjoint/tensor";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { appendLine, disk, FileError, recoverDirectory, saveSafetensors, withFileSystem, writeDirectoryAtomic, writeFileAtomic, writeFileResumable } from "../src/index.ts";
import type { Content, FileSystem } from "../src/index.ts";
import { sweepFailures } from "../src/failing.ts";
import { inFolder, picture } from "./temporary.ts";

const f32 = { dtype: "f32", shape: [3], data: Float32Array.of(1, 2, 3) } as const;

interface Writer {
  readonly what: string;
  /** names what the error must name */
  readonly file: string;
  readonly write: (dir: string, fileSystem: FileSystem) => Promise<void>;
  /** text that must be on the disk after success, by path */
  readonly result: Record<string, string>;
}

const writers: Writer[] = [
  { what: "a new file", file: "new.txt", write: (dir, fileSystem) => writeFileAtomic(join(dir, "new.txt"), "new", { fileSystem }), result: { "new.txt": "new" } },
  { what: "an old file", file: "old.txt", write: (dir, fileSystem) => writeFileAtomic(join(dir, "old.txt"), ["ne", new Uint8Array([119]), ""], { fileSystem }), result: { "old.txt": "new" } },
  { what: "a file in new folders", file: "c.txt", write: (dir, fileSystem) => writeFileAtomic(join(dir, "a", "b", "c.txt"), "c", { fileSystem }), result: { "a/": "", "a/b/": "", "a/b/c.txt": "c" } },
  { what: "a line of an old file", file: "old.txt", write: (dir, fileSystem) => appendLine(join(dir, "old.txt"), "line", { fileSystem }), result: { "old.txt": "old\nline\n" } },
  { what: "the first line, in a new folder", file: "m.jsonl", write: (dir, fileSystem) => appendLine(join(dir, "run", "m.jsonl"), "line", { fileSystem }), result: { "run/": "", "run/m.jsonl": "line\n" } },
  { what: "a new folder", file: "", write: (dir, fileSystem) => writeDirectoryAtomic(join(dir, "x", "new"), { "a.txt": "a", "s/b.txt": ["b", "b"] }, { fileSystem }), result: { "x/": "", "x/new/": "", "x/new/a.txt": "a", "x/new/s/": "", "x/new/s/b.txt": "bb" } },
  { what: "an old folder", file: "", write: (dir, fileSystem) => writeDirectoryAtomic(join(dir, "folder"), { "one.txt": "1", "two.txt": "2" }, { fileSystem, replaceAll: true }), result: { "folder/one.txt": "1", "folder/two.txt": "2" } },
  { what: "tensors, with the file system replaced for all", file: "t.safetensors", write: (dir, fileSystem) => withFileSystem(fileSystem, () => saveSafetensors(join(dir, "t.safetensors"), { f32 }, { format: "pt" })), result: {} },
];

async function before(dir: string): Promise<void> {
  await writeFile(join(dir, "old.txt"), "old\n");
  await mkdir(join(dir, "folder"));
  await writeFile(join(dir, "folder", "one.txt"), "old one");
  await writeFile(join(dir, "folder", "three.txt"), "old three");
}

describe("a write that fails at its n-th operation, for every n", () => {
  for (const { what, file, write, result } of writers) {
    it(`leaves everything as it was: ${what}`, async () => {
      await inFolder(async (dir) => {
        await before(dir);
        const old = await picture(dir);
        const failures = await sweepFailures(
          async (fs) => {
            await write(dir, fs);
            expect(await picture(dir)).toMatchObject(result);
            expect(Object.keys(await picture(dir)).filter((name) => /tmp|previous/.test(name))).toEqual([]);
            await disk.remove(dir);
            await mkdir(dir);
            await before(dir);
          },
          async (error) => {
            expect(error).toBeInstanceOf(FileError);
            expect(error).toMatchObject({ message: expect.stringContaining("fix: the disk is full"), details: { file: expect.stringContaining(file), value: "ENOSPC" } });
            expect(await picture(dir)).toEqual(old);
          },
        );
        expect(failures).toBeGreaterThanOrEqual(4); // at least open, write, sync or list, and the full disk
      });
    });
  }

  it("a source that throws leaves everything as it was, and its error passes unchanged", async () => {
    await inFolder(async (dir) => {
      await before(dir);
      const old = await picture(dir);
      const broken: Content = (function* () { yield "half"; throw new RangeError("broken"); })();
      await expect(writeFileAtomic(join(dir, "old.txt"), broken)).rejects.toThrow(RangeError);
      const again: Content = (function* () { yield "half"; throw new RangeError("broken"); })();
      await expect(writeDirectoryAtomic(join(dir, "folder"), { "one.txt": "1", "three.txt": again })).rejects.toThrow(RangeError);
      expect(await picture(dir)).toEqual(old);
    });
  });

  it("a resumable write keeps what it has, and goes on", async () => {
    await inFolder(async (dir) => {
      const path = join(dir, "d", "file.bin");
      const all = Uint8Array.from({ length: 10 }, (_, i) => 48 + i);
      const starts: number[] = [];
      const from = (have: number) => { starts.push(have); return (async function* () { for (let at = have; at < all.length; at += 3) yield all.subarray(at, at + 3); })(); };
      const failures = await sweepFailures(
        async (fileSystem) => {
          await writeFileResumable(path, from, async () => {}, { fileSystem });
          expect(await readFile(path, "utf8")).toBe("0123456789");
          await disk.remove(join(dir, "d"));
        },
        async (error) => {
          expect(error).toBeInstanceOf(FileError);
          const now = await picture(dir);
          expect(now["d/file.bin"]).toBeUndefined();
          expect("0123456789".startsWith(now["d/file.bin.incomplete"] ?? "")).toBe(true);
        },
      );
      expect(failures).toBeGreaterThan(6);
      expect(Math.max(...starts)).toBeGreaterThan(0); // some run did go on from where the one before ended
      await expect(writeFileResumable(path, from, async () => { throw new Error("wrong checksum"); })).rejects.toThrow("wrong checksum");
      expect(Object.keys(await picture(dir))).toEqual(["d/"]);
    });
  });
});

describe("writing", () => {
  it("law: what is written is read, in any pieces", async () => {
    await inFolder(async (dir) => {
      const path = join(dir, "f.bin");
      await fc.assert(fc.asyncProperty(fc.array(fc.uint8Array({ maxLength: 9 }), { maxLength: 5 }), async (parts) => {
        await writeFileAtomic(path, parts);
        expect(new Uint8Array(await readFile(path))).toEqual(Uint8Array.from(parts.flatMap((part) => [...part])));
      }), { numRuns: 30 });
      expect(Object.keys(await picture(dir))).toEqual(["f.bin"]);
    });
  });

  it("bytes are on the disk before they get their name", async () => {
    await inFolder(async (dir) => {
      const log: string[] = [];
      const logging: FileSystem = {
        ...disk,
        async open(path, mode) {
          const file = await disk.open(path, mode);
          return { ...file, write: (bytes) => { log.push("write"); return file.write(bytes); }, sync: () => { log.push("sync"); return file.sync(); } };
        },
        rename: (from, to) => { log.push("rename"); return disk.rename(from, to); },
      };
      await writeFileAtomic(join(dir, "f"), ["a", "b"], { fileSystem: logging });
      await writeDirectoryAtomic(join(dir, "d"), { a: "a", b: "b" }, { fileSystem: logging });
      expect(log).toEqual(["write", "write", "sync", "rename", "write", "sync", "write", "sync", "rename"]);
    });
  });

  it("writes that overlap in time do not mix", async () => {
    await inFolder(async (dir) => {
      const path = join(dir, "f.txt");
      await Promise.all(["aaaa", "bbbb", "cccc"].map((text) => writeFileAtomic(path, [...text])));
      expect(["aaaa", "bbbb", "cccc"]).toContain(await readFile(path, "utf8"));
      expect(Object.keys(await picture(dir))).toEqual(["f.txt"]);
    });
  });

  it("refuses a folder whose other files would be lost, unless told", async () => {
    await inFolder(async (dir) => {
      await before(dir);
      const old = await picture(dir);
      const refused = writeDirectoryAtomic(join(dir, "folder"), { "one.txt": "1" });
      await expect(refused).rejects.toThrow(ConfigError);
      await expect(refused).rejects.toMatchObject({ details: { value: ["three.txt"] } });
      await expect(writeDirectoryAtomic(join(dir, "old.txt"), { "one.txt": "1" })).rejects.toThrow(ConfigError);
      expect(await picture(dir)).toEqual(old);
      await writeDirectoryAtomic(join(dir, "folder"), { "one.txt": "1", "three.txt": "3" });
      expect(await picture(dir)).toEqual({ "folder/": "", "folder/one.txt": "1", "folder/three.txt": "3", "old.txt": "old\n" });
    });
  });

  it.each(["../x", "/x", "a/../../x", "", "a//b", "C:x", "a\\b", "."])("refuses the name %j, which leaves the folder", async (name) => {
    await inFolder(async (dir) => {
      await expect(writeDirectoryAtomic(join(dir, "d"), { [name]: "x" })).rejects.toThrow(ConfigError);
      expect(await picture(dir)).toEqual({});
    });
  });

  it("recovers the old folder of a writer that was killed between its two renames", async () => {
    await inFolder(async (dir) => {
      await before(dir);
      const old = await picture(dir);
      await rename(join(dir, "folder"), join(dir, ".folder.previous"));
      await recoverDirectory(join(dir, "folder"));
      expect(await picture(dir)).toEqual(old);
      await mkdir(join(dir, ".folder.previous")); // killed after the second rename: the new folder counts
      await recoverDirectory(join(dir, "folder"));
      expect(await picture(dir)).toEqual(old);
    });
  });

  it("a line break in a line, and a folder in the way, are errors with a fix", async () => {
    await inFolder(async (dir) => {
      await before(dir);
      await expect(appendLine(join(dir, "old.txt"), "a\nb")).rejects.toThrow(FileError);
      await expect(writeFileAtomic(join(dir, "folder"), "x")).rejects.toMatchObject({ details: { file: join(dir, "folder"), fix: expect.any(String) } });
      await expect(writeFileAtomic(join(dir, "old.txt", "x"), "x")).rejects.toThrow(FileError);
      expect(Object.keys(await picture(dir)).sort()).toEqual(["folder/", "folder/one.txt", "folder/three.txt", "old.txt"]);
    });
  });
});
