/** What the tests of this package draw: host arrays of every element type, odd lengths included, and names that strain JSON. */
import { dtypes, hostArray } from "@adjoint/tensor";
import type { DType, HostArray } from "@adjoint/tensor";
import fc from "fast-check";

const axis: fc.Arbitrary<number> = fc.constantFrom(0, 1, 2, 3, 5, 7);

/** Any bits of the type: NaN payloads, infinities and extremes are data like any other. */
export const hostArrays = (allowed: readonly DType[] = dtypes): fc.Arbitrary<HostArray> =>
  fc.tuple(fc.constantFrom(...allowed), fc.array(axis, { maxLength: 3 }), fc.infiniteStream(fc.nat(255))).map(([dtype, shape, stream]) => {
    const data = hostArray(dtype, shape.reduce((n, d) => n * d, 1));
    const bytes = new Uint8Array(data.buffer);
    for (let i = 0; i < bytes.length; i++) {
      const byte = stream.next().value ?? 0;
      bytes[i] = dtype === "bool" ? byte & 1 : byte;
    }
    return { dtype, shape, data };
  });

const name = fc.oneof(fc.string({ unit: "binary", maxLength: 12 }), fc.constantFrom("__proto__", "constructor", "a.b", "é\u{1d11e}\uffee", 'q"\\\n'))
  .filter((s) => s !== "__metadata__" && !/\p{Surrogate}/u.test(s));

/** A file's worth of tensors. */
export const tensorFiles: fc.Arbitrary<Map<string, HostArray>> = fc.array(fc.tuple(name, hostArrays()), { maxLength: 6 }).map((pairs) => new Map(pairs));

/** No metadata, empty metadata, some. */
export const metadatas: fc.Arbitrary<Record<string, string> | undefined> = fc.option(fc.dictionary(name, fc.string({ unit: "binary" }).filter((s) => !/\p{Surrogate}/u.test(s)), { maxKeys: 3, noNullPrototype: true }), { nil: undefined });

/** The bits of an array, comparable with toEqual whatever the NaNs. */
export const bits = ({ dtype, shape, data }: HostArray): unknown => ({ dtype, shape: [...shape], bytes: [...new Uint8Array(data.buffer, data.byteOffset, data.byteLength)] });

/** Comparable form of a whole file. */
export const allBits = (tensors: Iterable<[string, HostArray]>): unknown => new Map([...tensors].map(([key, array]) => [key, bits(array)] as const));
