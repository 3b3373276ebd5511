/**
 * Codes to f32: the library's decoder and what stands on it, packers and matrix-vector loops over codes, and the kernel of `dequantize`.
 *
 * x(e) = table[code(e)]·scale(⌊e / block⌋) - min(⌊e / block⌋). Sixteen codes of 4 bits are looked up at once: the table is held as four
 * planes, one for each byte of a float, a swizzle picks from each plane, and interleaving puts the bytes together again. Codes of 8 bits
 * are looked up one by one. Products decode a tile into the workspace and go on as with f32, so their bits are those of the decoded matrix.
 */
import { type BlockNumbers, bytesOf, type CompositeKernel, type Decode, type DequantizeAttrs, decodeOf, sizeOf, type View } from "@adjoint/tensor";
import { Func, type Import, type Local, op, v } from "./assembler.ts";
import { KC, type Order, orders, PACKED_A } from "./order.ts";
import type { Recipe } from "./recipe.ts";
import { Layout, type Patch, type Signature } from "./space.ts";

type Bits = Decode["bits"];
type IndexOf = (name: string) => number;
const widths: readonly Bits[] = [4, 8];

// ---- what a decoder is told: words in the argument block ---------------------------------------------------------------

const WORDS = ["codes", "table", "block", "scale", "scaleCodes", "scaleTable", "scaleBlock", "scaleOffset", "min", "minCodes", "minTable", "minBlock", "minOffset"] as const;
const at = (word: (typeof WORDS)[number]): number => 4 * WORDS.indexOf(word);
/** Names of a decoder's words among the extras of a signature. */
export const decodeWords = (prefix: string): string[] => WORDS.map((w) => `${prefix}.${w}`);
/** Their values: pointers as patches, sizes at once (block -1: there are no such numbers, 0: they are numbers, else they are codes). */
export function fillDecode(words: Int32Array, layout: Layout, prefix: string, codes: View, { block, table, scales, mins }: Decode): Patch[] {
  const patches: Patch[] = [], word = (w: (typeof WORDS)[number]): number => layout.extra(`${prefix}.${w}`);
  const point = (w: (typeof WORDS)[number], x: View, offset = x.offset): void => { patches.push({ word: word(w), buffer: x.buffer, bytes: offset * bytesOf(x.dtype) }); };
  const numbers = (what: "scale" | "min", b: BlockNumbers | undefined): void => {
    words[word(`${what}Block`)] = b ? b.nested?.block ?? 0 : -1;
    if (b) point(what, b.values);
    if (b?.nested) { point(`${what}Codes`, b.nested.codes); point(`${what}Table`, b.nested.table); point(`${what}Offset`, b.nested.offset); }
  };
  words[word("block")] = block;
  point("codes", codes, 0);
  point("table", table);
  numbers("scale", scales);
  numbers("min", mins);
  return patches;
}

// ---- the decoder ---------------------------------------------------------------------------------------------------

/** Lanes that interleave the lower (upper) halves of two vectors, n bytes at a time. */
const low = (n: number): number[] => Array.from({ length: 16 }, (_, i) => (Math.floor(i / (2 * n)) * n + (i % n)) + (Math.floor(i / n) % 2) * 16);
const high = (n: number): number[] => low(n).map((l) => l + 8);
/** Which halves of the interleaved planes hold four floats each. */
const quarters: readonly (readonly [pair: number, lanes: readonly number[]])[] = [[0, low(2)], [0, high(2)], [1, low(2)], [1, high(2)]];

/** (dst, e, rows, count, elements between rows, bytes between rows of dst, decoder): rows of `count` neighbouring elements, the first from e on. */
function decodeRows(bits: Bits): Func {
  const f = new Func(`decodeRows.q${bits}`, 7);
  const [dst, e, rows, count, se, pitch, desc] = [0, 1, 2, 3, 4, 5, 6];
  const codes = f.i32(), table = f.i32(), block = f.i32(), d = f.i32(), x = f.i32(), left = f.i32(), run = f.i32(), b = f.i32(), room = f.i32(), p = f.i32(), q = f.i32();
  const scale = f.v128(), min = f.v128(), t = f.v128(), planes = [0, 1, 2, 3].map(() => f.v128()), s = [0, 1, 2, 3].map(() => f.v128()), r = [0, 1, 2, 3].map(() => f.v128());
  const word = (w: (typeof WORDS)[number]): Func => f.get(desc).load(at(w));
  const shifted = (l: Local): Func => f.get(l).const(2).i(op.shl).i(op.add);
  /** out = the number of block b, in every lane */
  const number = (what: "scale" | "min", out: Local): void => {
    word(`${what}Block`).tee(q).const(0).i(op.leS).if(() => { word(what); shifted(b).vsplat(32).set(out); }, () => {
      word(`${what}Table`); word(`${what}Codes`).get(b).i(op.add).load8().const(2).i(op.shl).i(op.add).vsplat(32);
      word(what).get(b).get(q).i(op.divU).const(2).i(op.shl).i(op.add).vsplat(32).simd(v.mulF);
      word(`${what}Offset`).vsplat(32).simd(v.addF).set(out);
    });
  };
  /** value on the stack -> scaled */
  const scaled = (mins: boolean): void => { f.get(scale).simd(v.mulF); if (mins) f.get(min).simd(v.subF); };
  const one = (mins: boolean) => (): void => {
    f.get(d).get(table);
    if (bits === 8) f.get(codes).get(x).i(op.add).load8();
    else f.get(codes).get(x).const(1).i(op.shrU).i(op.add).load8().get(x).const(-1).i(op.xor).const(1).i(op.and).const(2).i(op.shl).i(op.shrU).const(15).i(op.and);
    f.const(2).i(op.shl).i(op.add).vsplat(32);
    scaled(mins);
    f.set(t).get(t).storeLane(32, 0);
    f.add(d, 4).add(x, 1).add(run, -1);
  };
  const sixteen = (mins: boolean) => (): void => {
    f.get(p).vzeroload(64).set(t);
    f.get(t).const(4).simd(v.shr8U).get(t).i32x4(0x0f0f0f0f).simd(v.and).shuffle(low(1)).set(t);
    planes.forEach((plane, i) => f.get(plane).get(t).simd(v.swizzle).set(s[i]));
    f.get(s[0]).get(s[1]).shuffle(low(1)).set(r[0]).get(s[0]).get(s[1]).shuffle(high(1)).set(r[1]);
    f.get(s[2]).get(s[3]).shuffle(low(1)).set(r[2]).get(s[2]).get(s[3]).shuffle(high(1)).set(r[3]);
    quarters.forEach(([k, lanes], i) => {
      f.get(d).get(r[k]).get(r[k + 2]).shuffle(lanes);
      scaled(mins);
      f.vstore(16 * i);
    });
    f.add(d, 64).add(x, 16).add(p, 8).add(run, -16);
  };
  const four = (mins: boolean) => (): void => {
    const look = (l: number): Func => f.get(table).get(p).load8(l).const(2).i(op.shl).i(op.add);
    look(0).vzeroload(32).set(t);
    for (let l = 1; l < 4; l++) look(l).get(t).loadLane(32, l).set(t);
    f.get(d).get(t);
    scaled(mins);
    f.vstore();
    f.add(d, 16).add(x, 4).add(p, 4).add(run, -4);
  };
  word("codes").set(codes);
  word("table").set(table);
  word("block").set(block);
  if (bits === 4) {
    const picks = (byte: number): number[] => [byte, byte + 1].flatMap((k) => Array.from({ length: 8 }, (_, i) => 4 * i + k));
    for (let half = 0; half < 2; half++) for (let pair = 0; pair < 2; pair++) f.get(table).vload(32 * half).get(table).vload(32 * half + 16).shuffle(picks(2 * pair)).set(s[2 * half + pair]);
    for (let pair = 0; pair < 2; pair++) for (let k = 0; k < 2; k++) f.get(s[pair]).get(s[2 + pair]).shuffle(Array.from({ length: 16 }, (_, i) => 8 * k + (i % 8) + (i < 8 ? 0 : 16))).set(planes[2 * pair + k]);
  }
  f.while(() => f.get(rows), () => {
    f.get(dst).set(d).get(e).set(x).get(count).set(left);
    f.get(x).get(block).i(op.divU).set(b);
    f.get(block).get(x).get(b).get(block).i(op.mul).i(op.sub).i(op.sub).set(room);
    f.while(() => f.get(left), () => {
      f.min(left, room).set(run);
      f.get(left).get(run).i(op.sub).set(left);
      number("scale", scale);
      const decode = (mins: boolean) => (): void => {
        if (mins) number("min", min);
        if (bits === 4) f.get(x).const(1).i(op.and).if(one(mins));
        f.get(codes).get(x).const(bits === 4 ? 1 : 0).i(op.shrU).i(op.add).set(p);
        f.while(() => f.get(run).const(bits === 4 ? 16 : 4).i(op.geU), (bits === 4 ? sixteen : four)(mins));
        f.while(() => f.get(run), one(mins));
      };
      word("minBlock").const(0).i(op.ltS).if(decode(false), decode(true));
      f.add(b, 1).get(block).set(room);
    });
    f.addTo(dst, pitch).addTo(e, se).add(rows, -1);
  });
  return f;
}

// ---- operands of products: as the functions of the same name over f32, with an element for the address and two parameters more: decoder, tile ----------

/** elements of a tile's row where columns (of B) or rows (of A) are neighbours */
const STRIP = 64;
/** columns that are decoded along k at once */
const COLUMNS = 16;
/** bytes of workspace that the packers' tile takes */
export const TILE: number = Math.max(KC * STRIP * 4, COLUMNS * PACKED_A) + 64;

/** Matches `packB.f32`: (dst, e, kc, nc, elements a step of k, elements a step of n, decoder, tile). */
function packB(bits: Bits, order: Order, index: IndexOf): Func {
  const f = new Func(`packB.q${bits}.${order}`, 8), [dst, e, kc, nc, sk, sn, desc, tile] = [0, 1, 2, 3, 4, 5, 6, 7];
  const j = f.i32(), zero = f.i32(), n = f.i32(), strip = f.i32(), k = f.i32(), from = f.i32(), to = f.i32(), along = order === "along", width = along ? COLUMNS : STRIP;
  const into = (): Func => f.get(dst).get(j).get(kc).i(op.mul).const(2).i(op.shl).i(op.add).get(tile).get(kc).get(n);
  f.const(width).set(strip);
  f.for(j, zero, nc, width, () => {
    f.get(nc).get(j).i(op.sub).set(n).min(n, strip).set(n);
    f.get(e).get(j).get(sn).i(op.mul).i(op.add).set(from);
    if (along) {
      f.get(tile).get(from).get(n).get(kc).get(sn).const(PACKED_A).get(desc).call(index(`decodeRows.q${bits}`));
      into().const(4).const(PACKED_A).call(index("packB.f32.along"));
      return;
    }
    if (order === "across") f.get(tile).get(from).get(kc).get(n).get(sk).const(STRIP * 4).get(desc).call(index(`decodeRows.q${bits}`));
    else {
      f.get(tile).set(to);
      f.for(k, zero, kc, 1, () => {
        f.get(to).get(from).get(n).const(1).get(sn).const(4).get(desc).call(index(`decodeRows.q${bits}`));
        f.addTo(from, sk).add(to, STRIP * 4);
      });
    }
    into().const(STRIP * 4).const(4).call(index("packB.f32.across"));
  });
  return f;
}

/** Matches `packA.f32`: (dst, e, mc, kc, elements a step of m, elements a step of k, decoder, tile). */
function packA(bits: Bits, order: Order, index: IndexOf): Func {
  const f = new Func(`packA.q${bits}.${order}`, 8), [dst, e, mc, kc, sm, sk, desc, tile] = [0, 1, 2, 3, 4, 5, 6, 7];
  const i = f.i32(), zero = f.i32(), m = f.i32(), strip = f.i32();
  if (order === "along") { f.get(dst).get(e).get(mc).get(kc).get(sm).const(PACKED_A).get(desc).call(index(`decodeRows.q${bits}`)); return f; }
  if (order === "any") {
    f.for(i, zero, mc, 1, () => {
      f.get(dst).get(e).get(kc).const(1).get(sk).const(4).get(desc).call(index(`decodeRows.q${bits}`));
      f.add(dst, PACKED_A).addTo(e, sm);
    });
    return f;
  }
  f.const(STRIP).set(strip);
  f.for(i, zero, mc, STRIP, () => {
    f.get(mc).get(i).i(op.sub).set(m).min(m, strip).set(m);
    f.get(tile).get(e).get(i).i(op.add).get(kc).get(m).get(sk).const(STRIP * 4).get(desc).call(index(`decodeRows.q${bits}`));
    f.get(dst).get(i).const(PACKED_A).i(op.mul).i(op.add).get(tile).get(m).get(kc).const(4).const(STRIP * 4).call(index("packA.f32.across"));
  });
  return f;
}

/** Columns of a matrix-vector product that are decoded at once, and the bytes of their tile. */
const strips = { dots: 4, axpy: 32 } as const;
export const vectorTile = (path: "dots" | "axpy", k: number): number => 4 * strips[path] * (k + 4) + 64;

/** (a, bytes between rows of a, rows, e, c, bytes between rows of c, n, k, elements a step of n (dots) or k (axpy), decoder, tile): c[r][j] = Σ a[r][k]·b[k][j], each row as `dots.f32` or `axpy.f32` makes it. */
function vectors(bits: Bits, path: "dots" | "axpy", index: IndexOf): Func {
  const f = new Func(`${path}.q${bits}`, 11), [a, am, rows, e, c, ldc, n, k, step, desc, tile] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10];
  const j = f.i32(), zero = f.i32(), w = f.i32(), strip = f.i32(), r = f.i32(), pa = f.i32(), pc = f.i32(), pitch = f.i32(), width = strips[path];
  f.const(width).set(strip);
  if (path === "dots") f.get(k).const(4).i(op.add).const(2).i(op.shl).set(pitch); else f.const(4 * width).set(pitch);
  f.for(j, zero, n, width, () => {
    f.get(n).get(j).i(op.sub).set(w).min(w, strip).set(w);
    f.get(tile).get(e).get(j);
    if (path === "dots") f.get(step).i(op.mul).i(op.add).get(w).get(k); else f.i(op.add).get(k).get(w);
    f.get(step).get(pitch).get(desc).call(index(`decodeRows.q${bits}`));
    f.get(a).set(pa).get(c).get(j).const(2).i(op.shl).i(op.add).set(pc);
    f.for(r, zero, rows, 1, () => {
      f.get(pa).get(tile).get(pc).get(w).get(k).get(pitch).call(index(`${path}.f32`));
      f.addTo(pa, am).addTo(pc, ldc);
    });
  });
  return f;
}

/** The functions over codes; `index` finds functions of the library by name. */
export const decoders = (index: IndexOf): Func[] =>
  [...widths.map(decodeRows), ...widths.flatMap((b) => [...orders.map((o) => packB(b, o, index)), ...orders.map((o) => packA(b, o, index)), vectors(b, "dots", index), vectors(b, "axpy", index)])];
export const decoderImports: readonly Import[] = [
  ...widths.map((b) => ({ name: `decodeRows.q${b}`, params: 7 })),
  ...widths.flatMap((b) => [...orders.map((o) => ({ name: `packB.q${b}.${o}`, params: 8 })), ...orders.map((o) => ({ name: `packA.q${b}.${o}`, params: 8 })), { name: `dots.q${b}`, params: 11 }, { name: `axpy.q${b}`, params: 11 }]),
];

// ---- the whole tensor in memory -----------------------------------------------------------------------------------------

/** The composite `dequantize`: threads decode equal parts. */
export function dequantizeRecipe(k: CompositeKernel, libraryIndex: IndexOf): Recipe {
  const decode = decodeOf(k.attrs as DequantizeAttrs, k.inputs), n = sizeOf(k.outputs[0].shape), out = k.outputs[0];
  const signature: Signature = { rank: 0, views: [], affines: [], uniforms: 0, extras: ["out", "n", ...decodeWords("x")] }, layout = new Layout(signature);
  return {
    key: `dequantize|${decode.bits}`, layout, phases: 1, workspace: 0, work: n,
    fill: (words) => {
      words[layout.extra("n")] = n;
      return [...fillDecode(words, layout, "x", k.inputs[0], decode), { word: layout.extra("out"), buffer: out.buffer, bytes: out.offset * 4 }];
    },
    emit: (name) => {
      const f = new Func(`${name}.0`, 3), all = f.i32(), part = f.i32(), from = f.i32(), count = f.i32();
      f.get(0).load(4 * layout.extra("n")).set(all);
      // parts are multiples of 64, so that no byte and few blocks are shared
      f.get(all).get(2).i(op.add).const(1).i(op.sub).get(2).i(op.divU).const(63).i(op.add).const(-64).i(op.and).set(part);
      f.get(part).get(1).i(op.mul).set(from).min(from, all).set(from);
      f.get(all).get(from).i(op.sub).set(count).min(count, part).set(count);
      f.get(0).load(4 * layout.extra("out")).get(from).const(2).i(op.shl).i(op.add).get(from).const(1).get(count).const(0).const(0);
      f.get(0).const(4 * layout.extra("x.codes")).i(op.add).call(libraryIndex(`decodeRows.q${decode.bits}`));
      return [f];
    },
  };
}
