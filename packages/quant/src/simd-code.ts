/** WebAssembly SIMD as nested lists of bytes: instructions after their operands, loops, and the module around them. */

export type Code = readonly (number | Constant | Code)[];
/** A vector that is set before the function begins, in a local of its own: newer engines (V8 of Node 24) would build it anew at every use, in every turn of a loop. */
interface Constant { readonly bytes: readonly number[] }
const noConstant = (): number => { throw new Error("a constant outside of a function"); };
const isCode = (part: Constant | Code): part is Code => Array.isArray(part);
function flat(code: Code, localOf: (constant: Constant) => number = noConstant, into: number[] = []): number[] {
  for (const part of code) {
    if (typeof part === "number") into.push(part);
    else if (isCode(part)) flat(part, localOf, into);
    else into.push(0x20, ...leb(localOf(part)));
  }
  return into;
}
const leb = (n: number): number[] => (n < 128 ? [n] : [(n & 127) | 128, ...leb(n >>> 7)]);
/** Signed LEB128. */
const sleb = (n: number): number[] => { const low = n & 127, rest = n >> 7; return (rest === 0 && (low & 64) === 0) || (rest === -1 && (low & 64) !== 0) ? [low] : [low | 128, ...sleb(rest)]; };

/** Locals, whole numbers, memory. */
export const get = (i: number): Code => [0x20, leb(i)], set = (i: number, value: Code): Code => [value, 0x21, leb(i)], tee = (i: number, value: Code): Code => [value, 0x22, leb(i)];
export const i32 = (n: number): Code => [0x41, sleb(n)], add = (a: Code, b: Code): Code => [a, b, 0x6a], less = (a: Code, b: Code): Code => [a, b, 0x49];
export const load32 = (at: Code, offset = 0): Code => [at, 0x28, 0x02, leb(offset)], store32 = (at: Code, value: Code, offset = 0): Code => [at, value, 0x36, 0x02, leb(offset)], store8 = (at: Code, value: Code, offset = 0): Code => [at, value, 0x3a, 0x00, leb(offset)], load8 = (at: Code, offset = 0): Code => [at, 0x2d, 0x00, leb(offset)];
export const shiftRight = (value: Code, by: number): Code => [value, i32(by), 0x76], shiftLeft = (value: Code, by: number): Code => [value, i32(by), 0x74];
/** 1 where the f32 at `a` is greater than that at `b`. */
export const greaterAt = (a: Code, offset: number, b: Code, offsetB: number): Code => [a, 0x2a, 0x02, leb(offset), b, 0x2a, 0x02, leb(offsetB), 0x5e];
export const load = (at: Code, offset = 0): Code => [at, 0xfd, 0x00, 0x00, leb(offset)], store = (at: Code, value: Code, offset = 0): Code => [at, value, 0xfd, 0x0b, 0x00, leb(offset)], load32Splat = (at: Code): Code => [at, 0xfd, 0x09, 0x02, 0x00];
/** Four halves of 16 bits as lanes of 32: with their sign, or with zeros above. */
export const load16S = (at: Code, offset = 0): Code => [at, 0xfd, 0x03, 0x00, leb(offset)], load16U = (at: Code, offset = 0): Code => [at, 0xfd, 0x04, 0x00, leb(offset)];
/** 32 bits from `at` into one lane of a vector, or into the first lane of zeros. */
export const load32Lane = (lane: number, at: Code, offset: number, into: Code): Code => [at, into, 0xfd, 0x56, 0x02, leb(offset), lane], load32Zero = (at: Code, offset = 0): Code => [at, 0xfd, 0x5c, 0x02, leb(offset)];
/** Does `body`, and again while `condition`. */
export const loop = (body: Code, condition: Code): Code => [0x03, 0x40, body, condition, 0x0d, 0x00, 0x0b];
export const whenNot = (condition: Code, body: Code): Code => [0x02, 0x40, condition, 0x0d, 0x00, body, 0x0b];

/** One instruction of the vector set, after its operands; `by`: a shift of every lane. */
export const op = (code: number, ...operands: Code[]): Code => [operands, 0xfd, leb(code)];
export const shift = (code: number, value: Code, by: number): Code => op(code, value, i32(by));
const literal = (bytes: readonly number[]): Code => [0xfd, 0x0c, bytes], constant = (bytes: Uint8Array): Code => (bytes.every((b) => b === 0) ? literal([...bytes]) : [{ bytes: [...bytes] }]);
export const f32x4 = (v: number): Code => constant(new Uint8Array(new Float32Array(4).fill(v).buffer)), i32x4 = (v: number): Code => constant(new Uint8Array(new Uint32Array(4).fill(v).buffer));
export const i8x16 = (v: number): Code => constant(new Uint8Array(16).fill(v)), bytes = (list: readonly number[]): Code => constant(Uint8Array.from(list));
/** Bytes of two vectors by place: one instruction where the places are those of an unpack or blend; others are cheaper by SWIZZLE. */
export const shuffle = (a: Code, b: Code, lanes: readonly number[]): Code => [a, b, 0xfd, 0x0d, lanes];
/** Lanes of `unit` bytes by their number; 16 / unit and on are those of the second vector. */
export const lanes = (unit: number, order: readonly number[]): number[] => order.flatMap((lane) => Array.from({ length: unit }, (_, byte) => lane * unit + byte));

export const SWIZZLE = 0x0e, GT8 = 0x27, EQ32 = 0x37, GT32 = 0x3b, EQF = 0x41, LTF = 0x43, GTF = 0x44, AND = 0x4e, ANDNOT = 0x4f, OR = 0x50, XOR = 0x51, SELECT = 0x52, ALL8 = 0x63, NARROW8S = 0x65, CEIL = 0x67, TRUNC = 0x69, SUB8 = 0x71, MINU8 = 0x77,
  NARROW16S = 0x85, SHL16 = 0x8b, SHR16S = 0x8c, SHR16U = 0x8d, SUB16 = 0x91, BITS32 = 0xa4, SHL32 = 0xab, SHR32 = 0xad, ADD32 = 0xae, SUB32 = 0xb1, MAX32 = 0xb8, MAXU32 = 0xb9, ADDF = 0xe4, SUBF = 0xe5, MULF = 0xe6, DIVF = 0xe7;

const section = (id: number, content: Code): Code => { const all = flat(content); return [id, leb(all.length), all]; };
const text = (s: string): Code => [leb(s.length), [...s].map((c) => c.charCodeAt(0))];

/** A module over a memory of so many pages (its import e.m) with one function, (i32, i32) -> i32 with `scalars` more i32 locals and then `vectors`; it exports that as `run`. */
export function assemble(body: Code, pages: number, scalars: number, vectors: number, shared = false): Uint8Array<ArrayBuffer> {
  const constants = new Map<string, readonly [local: number, bytes: readonly number[]]>();
  const code = flat(body, ({ bytes }) => {
    const key = bytes.join(), [local] = constants.get(key) ?? [2 + scalars + vectors + constants.size];
    constants.set(key, [local, bytes]);
    return local;
  });
  const all = flat([0x02, leb(scalars), 0x7f, leb(vectors + constants.size), 0x7b, [...constants.values()].map(([local, bytes]) => set(local, literal(bytes))), code, 0x0b]);
  return Uint8Array.from(flat([
    0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00,
    section(1, [1, 0x60, 2, 0x7f, 0x7f, 1, 0x7f]), section(2, [1, text("e"), text("m"), 0x02, shared ? 3 : 1, leb(pages), leb(pages)]), section(3, [1, 0]),
    section(7, [1, text("run"), 0x00, 0]), section(10, [1, leb(all.length), all]),
  ]));
}

let near: number | undefined;
/** SWIZZLE by places below 16, or above 127 for 0: of other places nothing is promised, which saves x86 an addition where the engine has relaxed SIMD. */
export const swizzleNear = (table: Code, places: Code): Code => op((near ??= WebAssembly.validate(assemble([op(0x100, literal(sixteenZeros), literal(sixteenZeros)), 0x1a, i32(0)], 1, 0, 0)) ? 0x100 : SWIZZLE), table, places);
const sixteenZeros: readonly number[] = new Array<number>(16).fill(0);
