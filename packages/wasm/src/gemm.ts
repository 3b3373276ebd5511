/**
 * The GEMM library: micro-kernels over packed panels of B, packers from any strides and float dtypes, and matrix-vector loops.
 *
 * Goto's scheme. B is packed in panels of nr columns; A is read in place through mr row pointers (it is packed to rows
 * contiguous in k only where it is not so already, or not f32). One call of `micro` multiplies an mc x kc block of A by a
 * kc x nc block of panels. Each element of C is a sum over k in order, in blocks of 256 added in order, whatever the tile.
 */
import { bytesOf, type DType } from "@adjoint/tensor";
import { Func, type Import, type Local, op, v } from "./assembler.ts";
import { decoderImports, decoders } from "./decode.ts";
import { Converter } from "./element.ts";
import { KC, type Order, orders, PACKED_A } from "./order.ts";
import type { Tile } from "./recipe.ts";

const halves: readonly DType[] = ["f32", "f16", "bf16"];

/** C block (+)= A block · panels. `rowsOuter` walks C row by row, which suits small k. */
function micro(tile: Tile, rowsOuter: boolean): Func {
  const f = new Func(rowsOuter ? "microRows" : "micro", 10);
  const [pa, lda, pb, pc, ldc, mc, nc, kc, more, spare] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];
  const { mr, nr, unroll, fma } = tile, nv = nr / 4;
  const jr = f.i32(), ir = f.i32(), b = f.i32(), c = f.i32(), left = f.i32(), x = f.i32(), y = f.i32(), w = f.i32(), h = f.i32();
  const acc = Array.from({ length: mr * nv }, () => f.v128()), bv = Array.from({ length: nv }, () => f.v128()), av = f.v128();
  const a = Array.from({ length: mr }, () => f.i32());
  const step = (u: number): void => {
    for (let j = 0; j < nv; j++) f.get(b).vload((u * nv + j) * 16).set(bv[j]);
    for (let i = 0; i < mr; i++) {
      f.get(a[i]).vsplat(32, 4 * u).set(av);
      for (let j = 0; j < nv; j++) {
        const t = acc[i * nv + j];
        if (fma) f.get(av).get(bv[j]).get(t).simd(v.madd).set(t);
        else f.get(t).get(av).get(bv[j]).simd(v.mulF).simd(v.addF).set(t);
      }
    }
  };
  const move = (n: number): void => { for (const p of a) f.add(p, 4 * n); f.add(b, nr * 4 * n); };
  const body = (): void => {
    f.get(pb).get(jr).get(kc).i(op.mul).const(2).i(op.shl).i(op.add).set(b);
    f.get(pc).get(ir).get(ldc).i(op.mul).i(op.add).get(jr).const(2).i(op.shl).i(op.add).set(c);
    f.get(pa).get(ir).get(lda).i(op.mul).i(op.add).set(a[0]);
    // rows past the block repeat the last one; their sums are not stored
    for (let i = 1; i < mr; i++) f.get(a[i - 1]).get(lda).const(0).get(ir).const(i).i(op.add).get(mc).i(op.ltU).i(op.select).i(op.add).set(a[i]);
    for (const t of acc) f.f32x4(0).set(t);
    f.get(kc).set(left);
    if (unroll > 1) f.while(() => f.get(left).const(unroll).i(op.geU), () => { for (let u = 0; u < unroll; u++) step(u); move(unroll); f.add(left, -unroll); });
    f.block(() => {
      if (unroll > 1) f.get(left).i(op.eqz).brIf(0);
      f.loop(() => { step(0); move(1); f.get(left).const(1).i(op.sub).tee(left).brIf(0); });
    });
    f.get(mc).get(ir).i(op.sub).const(mr).i(op.geU).get(nc).get(jr).i(op.sub).const(nr).i(op.geU).i(op.and).if(() => {
      const rows = (each: (t: number, offset: number) => void): void => {
        for (let i = 0; i < mr; i++) { for (let j = 0; j < nv; j++) each(acc[i * nv + j], 16 * j); if (i + 1 < mr) f.addTo(c, ldc); }
      };
      f.get(more).if(
        () => rows((t, o) => f.get(c).get(c).vload(o).get(t).simd(v.addF).vstore(o)),
        () => rows((t, o) => f.get(c).get(t).vstore(o)));
    }, () => {
      acc.forEach((t, i) => f.get(spare).get(t).vstore(16 * i));
      f.get(mc).get(ir).i(op.sub).set(h);
      f.get(nc).get(jr).i(op.sub).set(w);
      f.const(mr).set(x).min(h, x).set(h).const(nr).set(x).min(w, x).set(w);
      f.get(spare).set(b);
      f.while(() => f.get(h), () => {
        f.const(0).set(x);
        f.get(w).const(2).i(op.shl).set(left);
        f.for(x, undefined, left, 4, () => {
          f.get(c).get(x).i(op.add).set(y);
          f.get(more).if(
            () => f.get(y).get(b).get(x).i(op.add).vsplat(32).get(y).vsplat(32).simd(v.addF).storeLane(32, 0),
            () => f.get(y).get(b).get(x).i(op.add).load().store());
        });
        f.addTo(c, ldc).add(b, nr * 4).add(h, -1);
      });
    });
  };
  const zero = f.i32();
  if (rowsOuter) f.for(ir, zero, mc, mr, () => f.for(jr, zero, nc, nr, body));
  else f.for(jr, zero, nc, nr, () => f.for(ir, zero, mc, mr, body));
  return f;
}

/** Four vectors in t[0..3] transposed as 4x4 lanes, each row handed to `out`. */
function transpose(f: Func, t: readonly Local[], s: readonly Local[], out: (row: number, push: () => void) => void): void {
  f.get(t[0]).get(t[1]).shuffle32(0, 4, 1, 5).set(s[0]);
  f.get(t[2]).get(t[3]).shuffle32(0, 4, 1, 5).set(s[1]);
  f.get(t[0]).get(t[1]).shuffle32(2, 6, 3, 7).set(s[2]);
  f.get(t[2]).get(t[3]).shuffle32(2, 6, 3, 7).set(s[3]);
  out(0, () => f.get(s[0]).get(s[1]).shuffle32(0, 1, 4, 5));
  out(1, () => f.get(s[0]).get(s[1]).shuffle32(2, 3, 6, 7));
  out(2, () => f.get(s[2]).get(s[3]).shuffle32(0, 1, 4, 5));
  out(3, () => f.get(s[2]).get(s[3]).shuffle32(2, 3, 6, 7));
}

/** (dst, src, kc, nc, bytes a step of k, bytes a step of n) -> panels [kc][nr]; spare columns hold anything. */
function packB(dtype: DType, order: Order, tile: Tile): Func {
  const f = new Func(`packB.${dtype}.${order}`, 6);
  const [dst, src, kc, nc, sk, sn] = [0, 1, 2, 3, 4, 5], { nr } = tile;
  const cv = new Converter(f), j = f.i32(), zero = f.i32(), k = f.i32(), d = f.i32(), lanes = f.i32(), q = f.i32(), col = f.i32(), last = f.i32(), k4 = f.i32();
  const load = (offset: number): void => { cv.loadRaw(dtype, offset); cv.decode(dtype, "float"); };
  f.get(dst).set(d);
  f.get(nc).const(1).i(op.sub).set(last);
  f.for(j, zero, nc, nr, () => {
    if (order === "across") {
      const s = f.i32();
      f.get(src).get(j).const(bytesOf(dtype)).i(op.mul).i(op.add).set(s);
      f.for(k, zero, kc, 1, () => {
        for (let g = 0; g < nr / 4; g++) { f.get(d).get(s); load(4 * g * bytesOf(dtype)); f.vstore(16 * g); }
        f.addTo(s, sk).add(d, nr * 4);
      });
      return;
    }
    // groups of four columns; columns past the end repeat the last
    for (let g = 0; g < nr / 4; g++) {
      const e = f.i32();
      f.get(d).const(16 * g).i(op.add).set(e);
      const column = (c: number, p: Local): void => {
        f.get(j).const(4 * g + c).i(op.add).set(col);
        f.min(col, last).get(sn).i(op.mul).get(src).i(op.add).set(p);
      };
      if (order === "along") {
        const p = [0, 1, 2, 3].map(() => f.i32()), t = [0, 1, 2, 3].map(() => f.v128()), s = [0, 1, 2, 3].map(() => f.v128());
        p.forEach((l, c) => column(c, l));
        f.get(kc).const(-4).i(op.and).set(k4);
        f.for(k, zero, k4, 4, () => {
          p.forEach((l, c) => { f.get(l); load(0); f.set(t[c]); f.add(l, 4 * bytesOf(dtype)); });
          transpose(f, t, s, (row, push) => { f.get(e); push(); f.vstore(row * nr * 4); });
          f.add(e, 4 * nr * 4);
        });
        f.get(kc).const(3).i(op.and).if(() => {
          p.forEach((l, c) => { f.get(l); load(0); f.set(t[c]); });
          transpose(f, t, s, (row, push) => f.get(kc).const(3).i(op.and).const(row).i(op.gtU).if(() => { f.get(e); push(); f.vstore(row * nr * 4); }));
        });
      } else {
        const p = f.i32();
        column(0, p);
        f.get(nc).get(j).i(op.sub).const(4 * g).i(op.sub).set(lanes);
        f.const(4).get(lanes).get(lanes).const(4).i(op.gtS).i(op.select).set(lanes);
        f.const(1).get(lanes).get(lanes).const(1).i(op.ltS).i(op.select).set(lanes);
        f.for(k, zero, kc, 1, () => {
          f.get(e); cv.gatherRaw(dtype, p, sn, q, lanes); cv.decode(dtype, "float"); f.vstore();
          f.addTo(p, sk).add(e, nr * 4);
        });
      }
    }
    f.get(kc).const(nr * 4).i(op.mul).get(d).i(op.add).set(d);
  });
  return f;
}

/** (dst, src, mc, kc, bytes a step of m, bytes a step of k) -> rows of f32 contiguous in k, PACKED_A bytes apart. */
function packA(dtype: DType, order: Order): Func {
  const f = new Func(`packA.${dtype}.${order}`, 6);
  const [dst, src, mc, kc, sm, sk] = [0, 1, 2, 3, 4, 5];
  const cv = new Converter(f), i = f.i32(), zero = f.i32(), k = f.i32(), d = f.i32(), s = f.i32(), lanes = f.i32(), q = f.i32(), p = f.i32();
  const load = (): void => { cv.loadRaw(dtype, 0); cv.decode(dtype, "float"); };
  if (order === "across") {
    const t = [0, 1, 2, 3].map(() => f.v128()), u = [0, 1, 2, 3].map(() => f.v128());
    f.for(i, zero, mc, 4, () => {
      f.get(src).get(i).const(bytesOf(dtype)).i(op.mul).i(op.add).set(s);
      f.get(dst).get(i).const(PACKED_A).i(op.mul).i(op.add).set(d);
      f.for(k, zero, kc, 4, () => {
        f.get(s).set(p);
        for (let c = 0; c < 4; c++) {
          f.get(p); load(); f.set(t[c]);
          // k past the end repeats the last one: its lanes are not read
          if (c < 3) f.get(p).get(sk).const(0).get(k).const(c + 1).i(op.add).get(kc).i(op.ltU).i(op.select).i(op.add).set(p);
        }
        transpose(f, t, u, (row, push) => { f.get(d); push(); f.vstore(row * PACKED_A); });
        f.get(sk).const(2).i(op.shl).get(s).i(op.add).set(s);
        f.add(d, 16);
      });
    });
    return f;
  }
  f.for(i, zero, mc, 1, () => {
    f.get(src).get(i).get(sm).i(op.mul).i(op.add).set(s);
    f.get(dst).get(i).const(PACKED_A).i(op.mul).i(op.add).set(d);
    f.for(k, zero, kc, 4, () => {
      f.get(d);
      if (order === "along") { f.get(s); load(); }
      else {
        f.get(kc).get(k).i(op.sub).set(lanes);
        cv.gatherRaw(dtype, s, sk, q, lanes); cv.decode(dtype, "float");
      }
      f.vstore();
      f.get(sk).const(2).i(op.shl).get(s).i(op.add).set(s);
      f.add(d, 16);
    });
  });
  return f;
}

/**
 * (a, b, c, n, k, bytes a step of n): c[j] = Σ a[k]·b[j][k], a and c contiguous f32, b contiguous in k. Four columns at a
 * time; in a block of 256, lane l sums k ≡ l mod 4 in order, lanes are added (0+1)+(2+3), and blocks are added in order.
 */
function dots(dtype: DType): Func {
  const f = new Func(`dots.${dtype}`, 6);
  const [a, b, c, n, k, sn] = [0, 1, 2, 3, 4, 5];
  const cv = new Converter(f), j = f.i32(), zero = f.i32(), left = f.i32(), run = f.i32(), pa = f.i32(), lanes = f.i32(), q = f.i32(), cc = f.i32(), j1 = f.i32();
  const p = [0, 1, 2, 3].map(() => f.i32()), acc = [0, 1, 2, 3].map(() => f.v128()), s = [0, 1, 2, 3].map(() => f.v128()), r = [0, 1, 2, 3].map(() => f.v128());
  const total = f.v128(), av = f.v128(), mask = f.v128();
  f.for(j, zero, n, 4, () => {
    f.get(b).get(j).get(sn).i(op.mul).i(op.add).set(p[0]);
    for (let i = 1; i < 4; i++) {
      f.get(j).const(i).i(op.add).set(j1);
      f.get(p[i - 1]).get(sn).const(0).get(j1).get(n).i(op.ltU).i(op.select).i(op.add).set(p[i]);
    }
    f.f32x4(0).set(total);
    f.get(a).set(pa);
    f.get(k).set(left);
    f.while(() => f.get(left), () => {
      f.const(KC).set(run).min(left, run).set(run);
      f.get(left).get(run).i(op.sub).set(left);
      for (const t of acc) f.f32x4(0).set(t);
      const step = (masked: boolean): void => {
        f.get(pa).vload().set(av);
        for (let i = 0; i < 4; i++) {
          f.get(acc[i]).get(av).get(p[i]); cv.loadRaw(dtype, 0); cv.decode(dtype, "float"); f.simd(v.mulF);
          if (masked) f.get(mask).simd(v.and);
          f.simd(v.addF).set(acc[i]);
        }
      };
      f.while(() => f.get(run).const(4).i(op.geU), () => {
        step(false);
        f.add(pa, 16); for (const l of p) f.add(l, 4 * bytesOf(dtype));
        f.add(run, -4);
      });
      f.get(run).if(() => { f.get(run).simd(v.splatI).i32x4(0, 1, 2, 3).simd(v.gtS).set(mask); step(true); });
      transpose(f, acc, s, (row, push) => { push(); f.set(r[row]); });
      f.get(total).get(r[0]).get(r[1]).simd(v.addF).get(r[2]).get(r[3]).simd(v.addF).simd(v.addF).simd(v.addF).set(total);
    });
    f.get(c).get(j).const(2).i(op.shl).i(op.add).set(cc);
    f.get(n).get(j).i(op.sub).set(lanes);
    cv.scatterRaw("f32", total, cc, 4, q, lanes);
  });
  return f;
}

/** (a, b, c, n, k, bytes a step of k): c[j] = Σ a[k]·b[k][j], b contiguous in n; sums as `micro` makes them. */
function axpy(dtype: DType): Func {
  const f = new Func(`axpy.${dtype}`, 6);
  const [a, b, c, n, k, sk] = [0, 1, 2, 3, 4, 5], b1 = bytesOf(dtype);
  const cv = new Converter(f), j = f.i32(), left = f.i32(), run = f.i32(), pa = f.i32(), pb = f.i32(), lanes = f.i32(), q = f.i32(), cc = f.i32(), j32 = f.i32();
  const acc = Array.from({ length: 8 }, () => f.v128()), total = Array.from({ length: 8 }, () => f.v128()), av = f.v128();
  const block = (width: number): void => {
    for (let w = 0; w < width; w++) f.f32x4(0).set(total[w]);
    f.get(a).set(pa);
    f.get(b).get(j).const(b1).i(op.mul).i(op.add).set(pb);
    f.get(k).set(left);
    f.while(() => f.get(left), () => {
      f.const(KC).set(run).min(left, run).set(run);
      f.get(left).get(run).i(op.sub).set(left);
      for (let w = 0; w < width; w++) f.f32x4(0).set(acc[w]);
      f.while(() => f.get(run), () => {
        f.get(pa).vsplat(32).set(av);
        for (let w = 0; w < width; w++) { f.get(acc[w]).get(av).get(pb); cv.loadRaw(dtype, 4 * w * b1); cv.decode(dtype, "float"); f.simd(v.mulF).simd(v.addF).set(acc[w]); }
        f.add(pa, 4).addTo(pb, sk).add(run, -1);
      });
      for (let w = 0; w < width; w++) f.get(total[w]).get(acc[w]).simd(v.addF).set(total[w]);
    });
    f.get(c).get(j).const(2).i(op.shl).i(op.add).set(cc);
  };
  f.get(n).const(-32).i(op.and).set(j32);
  f.for(j, undefined, j32, 32, () => { block(8); total.forEach((t, w) => f.get(cc).get(t).vstore(16 * w)); });
  f.for(j, undefined, n, 4, () => {
    block(1);
    f.get(n).get(j).i(op.sub).set(lanes);
    cv.scatterRaw("f32", total[0], cc, 4, q, lanes);
  });
  return f;
}

/** All functions of the library, in a fixed order. */
export function library(tile: Tile): Func[] {
  return [
    micro(tile, false), micro(tile, true),
    ...halves.flatMap((d) => orders.map((o) => packB(d, o, tile))),
    ...halves.flatMap((d) => orders.map((o) => packA(d, o))),
    ...halves.map(dots), ...halves.map(axpy),
    ...decoders(libraryIndex),
  ];
}
/** What kernels import, in the order of `library`. */
export const libraryImports: readonly Import[] = [
  { name: "micro", params: 10 }, { name: "microRows", params: 10 },
  ...halves.flatMap((d) => orders.map((o) => ({ name: `packB.${d}.${o}`, params: 6 }))),
  ...halves.flatMap((d) => orders.map((o) => ({ name: `packA.${d}.${o}`, params: 6 }))),
  ...halves.map((d) => ({ name: `dots.${d}`, params: 6 })), ...halves.map((d) => ({ name: `axpy.${d}`, params: 6 })),
  ...decoderImports,
];
/** Index of a library function for `call`. */
export function libraryIndex(name: string): number { return libraryImports.findIndex((f) => f.name === name); }
