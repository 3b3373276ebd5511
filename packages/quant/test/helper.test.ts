/** The second thread gives the codes of the first, whenever it comes, however slow it is, and if it is gone. */
import { convertArray } from "@adjoint/tensor";
import { afterEach, describe, expect, it } from "vitest";
import { quantize, quantizeArray, quantizeThread } from "../src/index.ts";
import type { Quantized, QuantizeThread } from "../src/index.ts";
import { Helper, helper } from "../src/helper.ts";
import { CHUNK, fast } from "../src/simd.ts";
import type { FastName } from "../src/simd.ts";

const names = ["nf4", "fp4", "int4", "int8", "dynamic8", "q8_0", "q4_0", "mxfp4"] as const satisfies readonly FastName[];
const x = Float32Array.from({ length: 40 * CHUNK + 77 }, (_, i) => Math.sin(i * 12.9898) * 2 ** ((i >> 9) % 12 - 8));
const halves = (dtype: "f16" | "bf16"): Uint16Array => Uint16Array.from(convertArray(x.subarray(0, 3 * CHUNK), "f32", dtype));
const same = (a: Quantized, b: Quantized): boolean => Buffer.compare(a.codes, b.codes) === 0 && Buffer.compare(Buffer.from(a.scales.values.buffer), Buffer.from(b.scales.values.buffer)) === 0;

/** Asks until it is so; a busy machine may take its time. */
async function until(so: () => boolean): Promise<void> {
  for (let i = 0; !so(); i++) {
    if (i > 20000) throw new Error("the thread does nothing");
    await new Promise((done) => setTimeout(done, 1));
  }
}

describe("the second thread", () => {
  let thread: QuantizeThread | null = null;
  afterEach(() => { thread?.end(); thread = null; });

  it("makes the codes and scales of the loops here, of every format and input, one after the other", async () => {
    const other = new Helper();
    try {
      expect(await other.ready()).toBe(true);
      for (const input of ["f32", "f16", "bf16"] as const) {
        const elements = input === "f32" ? x.subarray(0, 3 * CHUNK) : halves(input);
        for (const name of names) {
          await until(() => other.begin(name, input));
          const own = fast(name, input)!, seen: number[] = [];
          const compare: Parameters<Helper["collect"]>[0] = (made, from, count, left) => {
            own.x.set(elements.subarray(from * 32, (from + count) * 32));
            expect(own.quantize(count, 32)).toBe(left);
            for (const part of ["codes", "scales", "left"] as const) {
              const n = part === "scales" ? count : part === "left" ? count / 4 : (count * 32 * (name.endsWith("4") || name === "q4_0" ? 4 : 8)) / 8;
              expect(Buffer.compare(Buffer.from(made[part].slice(0, n).buffer), Buffer.from(own[part].slice(0, n).buffer)), `${name} of ${input}: ${part}`).toBe(0);
            }
            seen.push(from);
          };
          for (let from = 0; from < 3 * CHUNK / 32; from += CHUNK / 32) {
            await until(() => { other.collect(compare); return seen.length === (from * 32) / CHUNK; });
            other.give(elements, [from, CHUNK / 32], 32);
          }
          await until(() => { other.collect(compare); return seen.length === 3; });
          expect(seen).toEqual([0, CHUNK / 32, CHUNK / 16]);
        }
      }
    } finally {
      other.end();
    }
  });

  it("changes nothing: in new arrays and in those of before, while it starts, works and is gone", async () => {
    const alone = names.map((format) => quantize(x, [x.length], { format })), bf16 = convertArray(x, "f32", "bf16"), half = { dtype: "bf16" as const, shape: [x.length], data: bf16 }, aloneHalf = quantizeArray(half, { format: "nf4", doubleQuant: true });
    const check = (): void => {
      names.forEach((format, i) => { expect(same(quantize(x, [x.length], { format }), alone[i]), format).toBe(true); });
      const into = quantize(x.map((v) => -v), [x.length], { format: "nf4" }), over = quantize(x, [x.length], { format: "nf4", into });
      expect(over.codes).toBe(into.codes);
      expect(over.scales.values).toBe(into.scales.values);
      expect(same(over, alone[0])).toBe(true);
      expect(same(quantizeArray(half, { format: "nf4", doubleQuant: true, into: over }), aloneHalf)).toBe(true);
    };
    const starting = quantizeThread();
    check();
    thread = await starting;
    expect(thread).not.toBe(null);
    check();
    helper()!.end(); // without telling anybody, as a crash would
    check();
  });

  it("leaves errors as they are: the first element that is not finite", async () => {
    thread = await quantizeThread();
    const bad = x.slice();
    bad[CHUNK + 5] = NaN;
    bad[3 * CHUNK] = Infinity;
    for (let i = 0; i < 3; i++) expect(() => quantize(bad, [bad.length], { format: "nf4", name: "W" })).toThrow(`"W": element ${CHUNK + 5} is NaN`);
    expect(same(quantize(x, [x.length], { format: "int8" }), (thread?.end(), quantize(x, [x.length], { format: "int8" })))).toBe(true);
  });

  it("is one for all callers, and ends with the last", async () => {
    const [a, b] = await Promise.all([quantizeThread(), quantizeThread()]), shared = helper();
    a?.end();
    a?.end();
    expect(helper()).toBe(shared);
    b?.end();
    expect(helper()).toBe(null);
    thread = await quantizeThread();
    expect(helper()).not.toBe(shared);
  });
});
