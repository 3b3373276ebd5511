/**
 * Vector exp, log, tanh, sin, cos, erf and pow: each takes one f32x4 from the stack and leaves one, to about 2 ulp.
 *
 * The polynomials are those of every backend. exp: n = round(x log2 e), r = x - n ln 2, e^r = 1 + r + r² q(r);
 * rounding adds 1.5·2^23, so that n sits in the low bits (V8's f32x4.nearest and trunc_sat are slow). f64x2 serves where
 * f32 loses digits: the range reduction of sin and cos, and pow.
 */
import { polynomials } from "@adjoint/tensor";
import { type Func, type Local, v } from "./assembler.ts";

const LOG2E = Math.LOG2E, { ln2: { high: LN2_HI, low: LN2_LO }, exp: EXP, expm1: EXPM1, log: LOG, sin: SIN, cos: COS, erfSmall: ERF_SMALL, erfBig: ERF_BIG } = polynomials;
const MAGIC = 12582912;

/** Locals that the functions share; made once a function. */
export class VectorMath {
  readonly #f: Func;
  readonly #pool: Local[] = [];
  #used = 0;
  constructor(f: Func) { this.#f = f; }

  #temp(): Local {
    if (this.#used === this.#pool.length) this.#pool.push(this.#f.v128());
    return this.#pool[this.#used++];
  }
  /** Runs `body` with n scratch locals. */
  with(n: number, body: (...t: Local[]) => void): void {
    const mark = this.#used, t: Local[] = [];
    for (let i = 0; i < n; i++) t.push(this.#temp());
    body(...t);
    this.#used = mark;
  }
  /** pushes c[0] + x (c[1] + x (...)) */
  #horner(x: Local, c: readonly number[]): void {
    const f = this.#f;
    f.f32x4(c[c.length - 1]);
    for (let k = c.length - 2; k >= 0; k--) f.get(x).simd(v.mulF).f32x4(c[k]).simd(v.addF);
  }
  /** x in a local; leaves t = bits with n in the low part, r = x - n ln 2 */
  #reduce(x: Local, t: Local, r: Local, n: Local): void {
    const f = this.#f;
    f.get(x).f32x4(LOG2E).simd(v.mulF).f32x4(MAGIC).simd(v.addF).tee(t).f32x4(MAGIC).simd(v.subF).set(n);
    f.get(x).get(n).f32x4(LN2_HI).simd(v.mulF).simd(v.subF).get(n).f32x4(LN2_LO).simd(v.mulF).simd(v.subF).set(r);
  }

  /** e^x; overflows to infinity, results under 1.7e-38 become 0. */
  exp(): void {
    const f = this.#f;
    this.with(4, (x, t, r, n) => {
      f.f32x4(89).simd(v.pminF).f32x4(-87.4).simd(v.pmaxF).set(x);
      this.#reduce(x, t, r, n);
      // twice e^r, times 2^(n-1): the exponent field of n = 128 fits
      f.f32x4(2).get(r).get(r).simd(v.addF).get(r).get(r).simd(v.mulF);
      this.#horner(r, EXP.map((c) => 2 * c));
      f.simd(v.mulF).simd(v.addF).simd(v.addF);
      f.get(t).const(23).simd(v.shlI).i32x4(126 << 23).simd(v.addI).simd(v.mulF);
    });
  }

  /** tanh x = -e / (e + 2) with e = exp(-2|x|) - 1 and x's sign. */
  tanh(): void {
    const f = this.#f;
    this.with(5, (x, t, r, n, s) => {
      f.set(x);
      f.get(x).simd(v.absF).f32x4(-2).simd(v.mulF).f32x4(-20).simd(v.pmaxF).set(s);
      this.#reduce(s, t, r, n);
      f.get(t).const(23).simd(v.shlI).i32x4(127 << 23).simd(v.addI).set(s);
      f.get(r).get(r).get(r).simd(v.mulF);
      this.#horner(r, EXPM1);
      f.simd(v.mulF).simd(v.addF).get(s).simd(v.mulF).get(s).f32x4(1).simd(v.subF).simd(v.addF).set(n);
      f.get(n).get(n).f32x4(2).simd(v.addF).simd(v.divF);               // -|tanh x|: its sign bit is set, or e = 0
      f.simd(v.absF).get(x).i32x4(0x80000000 | 0).simd(v.and).simd(v.or);
    });
  }

  /** ln x: x = 2^e (1 + m), m in [√½ - 1, √2 - 1]. */
  log(): void {
    const f = this.#f;
    this.with(5, (x, e, m, k, t) => {
      f.tee(x).f32x4(2 ** 23).simd(v.mulF).get(x).get(x).f32x4(2 ** -126).simd(v.ltF).tee(k).simd(v.bitselect).set(t);   // subnormals scaled up
      // bits - bits(√½): exponent in the high part, mantissa back on √½
      f.get(t).i32x4(0x3f3504f3).simd(v.subI).tee(e).i32x4(0x007fffff).simd(v.and).i32x4(0x3f3504f3).simd(v.addI).f32x4(1).simd(v.subF).set(m);
      f.get(e).const(23).simd(v.shrS).simd(v.convertS).get(k).f32x4(23).simd(v.and).simd(v.subF).set(e);
      f.get(m).get(m).simd(v.mulF).set(t);
      f.get(e).f32x4(LN2_HI).simd(v.mulF);
      f.get(m);
      f.get(m).get(t).simd(v.mulF);
      this.#horner(m, LOG);
      f.simd(v.mulF).get(e).f32x4(LN2_LO).simd(v.mulF).simd(v.addF).get(t).f32x4(0.5).simd(v.mulF).simd(v.subF);
      f.simd(v.addF).simd(v.addF).set(t);
      // 0 gives -inf, negative and NaN give NaN, +inf itself
      f.f32x4(-Infinity).get(t).get(x).f32x4(0).simd(v.eqF).simd(v.bitselect).set(t);
      f.get(x).get(t).get(x).f32x4(Infinity).simd(v.eqF).simd(v.bitselect).set(t);
      f.f32x4(NaN).get(t).get(x).f32x4(0).simd(v.geF).simd(v.not).simd(v.bitselect);
    });
  }

  /** sin x (quarter = 0) or cos x (quarter = 1), |x| up to about 1e9. */
  sin(quarter: 0 | 1): void {
    const f = this.#f;
    this.with(7, (x, r, q, h, n, z, s) => {
      f.set(x);
      for (const half of [0, 1]) {
        f.get(x);
        if (half === 1) f.get(x).shuffle32(2, 3, 2, 3);
        f.simd(v.promote).set(h);
        f.get(h).f64x2(2 / Math.PI).simd(v.mulD).simd(v.nearestD).set(n);
        f.get(h).get(n).f64x2(1.5707963267341256).simd(v.mulD).simd(v.subD).get(n).f64x2(6.077100506506192e-11).simd(v.mulD).simd(v.subD).simd(v.demote);
        if (half === 0) f.set(r); else f.set(s).get(r).get(s).shuffle32(0, 1, 4, 5).set(r);
        f.get(n).simd(v.truncDS);
        if (half === 0) f.set(q); else f.set(s).get(q).get(s).shuffle32(0, 1, 4, 5).set(q);
      }
      if (quarter === 1) f.get(q).i32x4(1).simd(v.addI).set(q);
      f.get(r).get(r).simd(v.mulF).set(z);
      f.get(r).get(r).get(z).simd(v.mulF);
      this.#horner(z, SIN);
      f.simd(v.mulF).simd(v.addF).set(s);
      f.f32x4(1).get(z).f32x4(0.5).simd(v.mulF).simd(v.subF).get(z).get(z).simd(v.mulF);
      this.#horner(z, COS);
      f.simd(v.mulF).simd(v.addF);
      f.get(s).get(q).const(31).simd(v.shlI).const(31).simd(v.shrS).simd(v.bitselect);    // odd quadrants: cos
      f.get(q).const(1).simd(v.shrU).const(31).simd(v.shlI).simd(v.xor);                  // upper half circle: minus
    });
  }

  /** erf x: x P(x²) under 1, 1 - exp(-R(|x|)) above. */
  erf(): void {
    const f = this.#f;
    this.with(4, (x, a, z, small) => {
      f.set(x);
      f.get(x).simd(v.absF).f32x4(4).simd(v.pminF).set(a);
      f.get(x).get(x).simd(v.mulF).set(z);
      this.#horner(z, ERF_SMALL);
      f.get(x).simd(v.mulF).set(small);
      this.#horner(a, ERF_BIG);
      f.simd(v.negF);
      this.exp();
      f.set(z).f32x4(1).get(z).simd(v.subF).get(x).i32x4(0x80000000 | 0).simd(v.and).simd(v.or).set(z);
      f.get(small).get(z).get(a).f32x4(1).simd(v.ltF).simd(v.bitselect).set(z);
      f.get(z).get(x).get(x).get(x).simd(v.eqF).simd(v.bitselect);                        // NaN stays NaN
    });
  }

  /** x^y with f64 inside: 2^(y log2 |x|), sign by y's parity, NaN for a negative x and a fractional y. */
  pow(): void {
    const f = this.#f;
    this.with(8, (y, x, out, h, e, m, s, k) => {
      f.set(y).set(x);
      for (const half of [0, 1]) {
        const part = (l: Local): void => { f.get(l); if (half === 1) f.get(l).shuffle32(2, 3, 2, 3); };
        part(x);
        f.simd(v.absF).simd(v.promote).set(h);
        // exponent and mantissa around √½ (bits of f64)
        f.get(h).f64x2(Math.SQRT1_2).simd(v.subL).const(52).simd(v.shrUL).set(e);          // may be negative: keep 12 bits
        f.get(h).get(e).const(52).simd(v.shlL).simd(v.subL).set(m);                        // mantissa in [√½, √2)
        f.get(e).get(e).shuffle32(0, 2, 0, 2).const(20).simd(v.shlI).const(20).simd(v.shrS).simd(v.convertDS).set(e);
        f.get(m).f64x2(1).simd(v.subD).get(m).f64x2(1).simd(v.addD).simd(v.divD).set(m);
        f.get(m).get(m).simd(v.mulD).set(s);
        f.f64x2(1 / 17);                                                                  // 2 atanh: Σ m^(2k+1)/(2k+1)
        for (let d = 15; d >= 1; d -= 2) f.get(s).simd(v.mulD).f64x2(1 / d).simd(v.addD);
        f.get(m).simd(v.mulD).f64x2(2 * Math.LOG2E).simd(v.mulD).get(e).simd(v.addD);
        part(y);
        f.simd(v.promote).simd(v.mulD).f64x2(1100).simd(v.pminD).f64x2(-1100).simd(v.pmaxD).set(h);
        f.get(h).simd(v.nearestD).set(e);
        f.get(h).get(e).simd(v.subD).f64x2(Math.LN2).simd(v.mulD).set(m);
        let c = 1;
        const taylor = [1];
        for (let d = 1; d <= 9; d++) { c /= d; taylor.push(c); }
        f.f64x2(taylor[9]);
        for (let d = 8; d >= 0; d--) f.get(m).simd(v.mulD).f64x2(taylor[d]).simd(v.addD);
        // 2^e in two factors, as e may leave the exponent's range
        f.f64x2(1).get(e).f64x2(-1000).simd(v.pmaxD).f64x2(1000).simd(v.pminD).simd(v.truncDS).set(k);
        f.get(k).get(k).shuffle32(0, 0, 1, 1).const(20).simd(v.shlI).i32x4(0, -1, 0, -1).simd(v.and).simd(v.addL).simd(v.mulD).simd(v.demote);
        if (half === 0) f.set(out); else f.set(s).get(out).get(s).shuffle32(0, 1, 4, 5).set(out);
      }
      // |x| = 0 and ∞ (their logarithm above is not one)
      f.get(x).simd(v.absF).set(h);
      f.f32x4(0).f32x4(Infinity).get(y).f32x4(0).simd(v.gtF).simd(v.bitselect).get(out).get(h).f32x4(0).simd(v.eqF).simd(v.bitselect).set(out);
      f.f32x4(Infinity).f32x4(0).get(y).f32x4(0).simd(v.gtF).simd(v.bitselect).get(out).get(h).f32x4(Infinity).simd(v.eqF).simd(v.bitselect).set(out);
      // negative x: sign for odd y, NaN for fractional y
      f.get(y).simd(v.truncS).set(k);
      f.get(k).const(31).simd(v.shlI).get(x).simd(v.and).get(y).simd(v.absF).f32x4(2 ** 24).simd(v.ltF).simd(v.and).get(out).simd(v.or).set(out);
      f.f32x4(NaN).get(out).get(x).f32x4(0).simd(v.ltF).get(y).get(y).simd(v.floorF).simd(v.neF).simd(v.and).simd(v.bitselect).set(out);
      // NaN operands; y = 0 gives 1 whatever x is
      f.get(out).f32x4(NaN).get(x).get(x).simd(v.eqF).get(y).get(y).simd(v.eqF).simd(v.and).simd(v.bitselect).set(out);
      f.f32x4(1).get(out).get(y).f32x4(0).simd(v.eqF).simd(v.bitselect);
    });
  }
}
