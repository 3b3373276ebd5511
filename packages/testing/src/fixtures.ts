/**
 * Golden fixtures of a checkout: `fixtures/data/<name>/golden.json`, with the versions that made it, and tensors beside it in safetensors.
 * The reader is its own, so that tests of files do not trust what they test.
 */
import { bytesOf, type HostArray, hostArray } from "@adjoint/tensor";

const root = new URL("../../../fixtures/data/", import.meta.url);

/** The path of a fixture's file or folder, as a string. @example await loadModel(fixture("llama/tiny")) */
export const fixture = (path: string): string => process.getBuiltinModule("node:url").fileURLToPath(new URL(path, root));

const read = (path: string): Uint8Array<ArrayBuffer> => new Uint8Array(process.getBuiltinModule("node:fs").readFileSync(fixture(path)));

/** `golden.json` of a fixture. @example const { loss } = golden<{ loss: number }>("llama/tiny") */
export const golden = <J = Record<string, unknown>>(name: string): J => JSON.parse(new TextDecoder().decode(read(`${name}/golden.json`))) as J;

const dtypes = { F32: "f32", F64: "f64", F16: "f16", BF16: "bf16", I32: "i32", U32: "u32", U8: "u8", I8: "i8", BOOL: "bool" } as const;
interface Entry { readonly dtype: keyof typeof dtypes; readonly shape: readonly number[]; readonly data_offsets: readonly [number, number] }

/** Tensors of a safetensors file in a fixture's folder, by name; half floats as raw bits. Format: an u64 length, a JSON header of that length, the bytes. */
export function goldenTensors(name: string, file = "golden.safetensors"): ReadonlyMap<string, HostArray> {
  const bytes = read(`${name}/${file}`), length = Number(new DataView(bytes.buffer).getBigUint64(0, true));
  const { __metadata__: _, ...entries } = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length))) as Record<string, Entry>;
  return new Map(Object.entries(entries).map(([key, { dtype, shape, data_offsets: [from, to] }]) => {
    const own = dtypes[dtype], data = hostArray(own, (to - from) / bytesOf(own));
    new Uint8Array(data.buffer, data.byteOffset, data.byteLength).set(bytes.subarray(8 + length + from, 8 + length + to));
    return [key, { dtype: own, shape, data }];
  }));
}
