/** Text is UTF-8: what is not is refused with file and byte. */
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { FormatError } from "@adjoint/tensor";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { decodeText, readText } from "../src/index.ts";
import { invalidUtf8 } from "../src/text.ts";
import { inFolder } from "./temporary.ts";

const text = fc.array(fc.constantFrom("a", "\0", "\x7f", "\x80", "ä", "\u07ff", "\u0800", "€", "\ud7ff", "\ue000", "\ufeff", "\uffff", "\u{10000}", "😀", "\u{10ffff}"), { maxLength: 6 }).map((list) => list.join(""));

describe("text", () => {
  it("law: every text comes back, and the first bytes that are none are named by their offset", () => {
    fc.assert(fc.property(text, text, fc.constantFrom([0xff], [0xc3], [0xe4], [0xf6], [0x80], [0xc0, 0x80], [0xed, 0xa0, 0x80], [0xf4, 0x90, 0x80, 0x80], [0xe2, 0x82], [0xf0, 0x9f, 0x98]), (a, b, bad) => {
      const encode = (s: string): number[] => [...new TextEncoder().encode(s)], before = encode(a), whole = Uint8Array.from([...before, ...encode(b)]);
      expect(invalidUtf8(whole)).toBe(-1);
      expect(decodeText(whole, "a.txt")).toBe((a + b).replace(/^\ufeff/, ""));
      const broken = Uint8Array.from([...before, ...bad, 0x2e]);
      expect(invalidUtf8(broken)).toBe(before.length);
      expect(() => decodeText(broken, "a.txt")).toThrow(FormatError);
    }));
  });
  it("law: it refuses what TextDecoder refuses", () => {
    const near = fc.constantFrom(0x00, 0x41, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xc1, 0xc2, 0xdf, 0xe0, 0xe1, 0xec, 0xed, 0xee, 0xef, 0xf0, 0xf1, 0xf3, 0xf4, 0xf5, 0xff);
    fc.assert(fc.property(fc.array(near, { maxLength: 5 }), (list) => {
      const bytes = Uint8Array.from(list);
      let fine = true;
      try { new TextDecoder("utf-8", { fatal: true }).decode(bytes); } catch { fine = false; }
      expect(invalidUtf8(bytes) < 0).toBe(fine);
    }), { numRuns: 500 });
  });
  it("names file, byte and what to do; a byte order mark of UTF-8 is left out", async () => {
    await inFolder(async (dir) => {
      const read = async (...bytes: number[]): Promise<string> => { await writeFile(join(dir, "t.txt"), Uint8Array.from(bytes)); return readText(join(dir, "t.txt")); };
      expect(await read(0xef, 0xbb, 0xbf, 0x41)).toBe("A");
      await expect(read(0x41, 0xe4, 0x42)).rejects.toThrow(/t\.txt: not UTF-8 text: byte 1 is 0xe4[^]*fix: save it as UTF-8/);
      for (const mark of [[0xff, 0xfe], [0xfe, 0xff]]) await expect(read(...mark, 0x41, 0x00)).rejects.toThrow(/t\.txt[^]*UTF-16[^]*iconv/);
      await expect(readText(join(dir, "none.txt"))).rejects.toThrow("no such file");
    });
  });
});
