/**
 * Memory to lanes and back: four elements of any dtype become f32x4 or i32x4 at loads, and are rounded at stores.
 *
 * f16 and bf16 are widened exactly and rounded to nearest even; small integers are extended, wrap when stored from
 * integers and saturate when stored from floats; bool is a lane mask inside formulas and 0 or 1 in memory.
 */
import { bytesOf, DTypeError, type DType, type ExprType } from "@adjoint/tensor";
import { type Func, type Local, v } from "./assembler.ts";

/** Refuses dtypes that this backend cannot hold. */
export function checkDType(dtype: DType, what: string): void {
  if (dtype === "f64") throw new DTypeError(`${what}: f64 exists on the reference backend only`, { value: "f64", fix: 'cast to f32, or use the reference backend: setDevice(reference())' });
}

/** The type that a stored dtype has inside formulas when nothing else is asked for. */
export const typeOf = (dtype: DType): ExprType => (dtype === "f32" || dtype === "f16" || dtype === "bf16" || dtype === "f64" ? "float" : dtype === "u32" ? "u32" : dtype === "bool" ? "bool" : "i32");

/** raw 4 x 16-bit (as u32 lanes) on the stack -> f32x4: sign and fields moved into place, exponent scaled by 2^112, infinities and NaN mended */
function widenF16(f: Func, t: Local): void {
  f.const(16).simd(v.shlI).const(3).simd(v.shrS).i32x4(0x8fffffff | 0).simd(v.and).f32x4(2 ** 112).simd(v.mulF).set(t);
  f.get(t).get(t).simd(v.absF).f32x4(65536).simd(v.geF).i32x4(0x7f800000).simd(v.and).simd(v.or);
}
/** f32x4 -> u32 lanes holding f16 bits, to nearest even */
export function bitsF16(f: Func, x: Local, a: Local, r: Local): void {
  f.set(x);
  f.get(x).i32x4(0x7fffffff).simd(v.and).set(a);
  f.get(a).get(a).const(13).simd(v.shrU).i32x4(1).simd(v.and).simd(v.addI).i32x4(((15 - 127) << 23) + 0xfff).simd(v.addI).const(13).simd(v.shrU).set(r);
  f.get(a).f32x4(0.5).simd(v.addF).i32x4(0x3f000000).simd(v.subI).get(r).get(a).i32x4(0x38800000).simd(v.ltU).simd(v.bitselect).set(r);
  f.i32x4(0x7c00).i32x4(0x200).get(a).i32x4(0x7f800000).simd(v.gtU).simd(v.and).simd(v.or);
  f.get(r).get(a).i32x4(0x47800000).simd(v.geU).simd(v.bitselect);
  f.get(x).const(16).simd(v.shrU).i32x4(0x8000).simd(v.and).simd(v.or);
}
/** f32x4 -> u32 lanes holding bf16 bits, to nearest even */
export function bitsBf16(f: Func, x: Local): void {
  f.set(x);
  f.get(x).const(16).simd(v.shrU).i32x4(0x40).simd(v.or);
  f.get(x).get(x).const(16).simd(v.shrU).i32x4(1).simd(v.and).simd(v.addI).i32x4(0x7fff).simd(v.addI).const(16).simd(v.shrU);
  f.get(x).get(x).simd(v.neF).simd(v.bitselect);
}

/** Bytes between neighbours: known, or in a local. */
export type Step = number | { readonly local: Local };

/** Scratch locals of one function for conversions. */
export class Converter {
  readonly #f: Func;
  readonly #t: Local[];
  constructor(f: Func) { this.#f = f; this.#t = [f.v128(), f.v128(), f.v128()]; }

  /** address on the stack -> four neighbours as raw 32-bit lanes (small elements zero- or sign-extended) */
  loadRaw(dtype: DType, offset: number): void {
    const f = this.#f;
    switch (bytesOf(dtype)) {
      case 4: f.vload(offset); break;
      case 2: f.vzeroload(64, offset).simd(v.ext16U); break;
      default: f.vzeroload(32, offset).simd(dtype === "i8" ? v.ext8S : v.ext8U).simd(dtype === "i8" ? v.ext16S : v.ext16U);
    }
  }
  /** address -> one element in every lane, raw */
  splatRaw(dtype: DType): void {
    const f = this.#f;
    switch (bytesOf(dtype)) {
      case 4: f.vsplat(32); break;
      case 2: f.vsplat(16).i32x4(0xffff).simd(v.and); break;
      default:
        f.vsplat(8);
        if (dtype === "i8") f.const(24).simd(v.shlI).const(24).simd(v.shrS); else f.i32x4(0xff).simd(v.and);
    }
  }
  /** four elements at p, p+s, p+2s, p+3s (lanes from `lanes` on repeat the last one), raw; uses `q` */
  gatherRaw(dtype: DType, p: Local, s: Local, q: Local, lanes?: Local): void {
    const f = this.#f, bits = bytesOf(dtype) * 8;
    f.get(p).set(q);
    f.i32x4(0).set(this.#t[0]);
    for (let k = 0; k < 4; k++) {
      f.get(q).get(this.#t[0]).loadLane(bits === 32 ? 32 : bits === 16 ? 16 : 8, (k * 32) / bits).set(this.#t[0]);
      if (k === 3) break;
      if (lanes === undefined) f.addTo(q, s);
      else f.get(q).get(s).const(0).const(k + 1).get(lanes).i(0x49).i(0x1b).i(0x6a).set(q);    // ltU, select, add
    }
    f.get(this.#t[0]);
    if (dtype === "i8") f.const(24).simd(v.shlI).const(24).simd(v.shrS);
  }
  /** raw lanes -> the formula's type */
  decode(dtype: DType, to: ExprType): void {
    const f = this.#f, from = typeOf(dtype);
    switch (dtype) {
      case "f16": widenF16(f, this.#t[0]); break;
      case "bf16": f.const(16).simd(v.shlI); break;
      case "bool": f.i32x4(0).simd(v.neI); break;
      case "f64": checkDType(dtype, "load"); break;
      default: break;
    }
    if (from !== to) this.convert(from, to);
  }
  /** value of type `from` on the stack -> type `to`, as `toF`, `toI`, `toU`, `toB` */
  convert(from: ExprType, to: ExprType): void {
    const f = this.#f;
    if (from === to) return;
    switch (to) {
      case "float":
        if (from === "bool") f.f32x4(1).simd(v.and); else f.simd(from === "u32" ? v.convertU : v.convertS);
        break;
      case "bool":
        if (from === "float") f.f32x4(0).simd(v.neF); else f.i32x4(0).simd(v.neI);
        break;
      default:
        if (from === "bool") f.i32x4(1).simd(v.and);
        else if (from === "float") f.simd(to === "u32" ? v.truncU : v.truncS);
    }
  }
  roundF16(): void { bitsF16(this.#f, this.#t[0], this.#t[1], this.#t[2]); widenF16(this.#f, this.#t[0]); }
  roundBf16(): void { bitsBf16(this.#f, this.#t[0]); this.#f.const(16).simd(v.shlI); }

  /** value on the stack -> element bits in the low part of each 32-bit lane */
  encode(dtype: DType, from: ExprType): void {
    const f = this.#f;
    switch (dtype) {
      case "f32": this.convert(from, "float"); break;
      case "f16": this.convert(from, "float"); bitsF16(f, this.#t[0], this.#t[1], this.#t[2]); break;
      case "bf16": this.convert(from, "float"); bitsBf16(f, this.#t[0]); break;
      case "i32": this.convert(from, "i32"); break;
      case "u32": this.convert(from, "u32"); break;
      case "bool": this.convert(from, "bool"); f.i32x4(1).simd(v.and); break;
      case "u8": case "i8":
        if (from === "float") {
          f.simd(v.truncS).i32x4(dtype === "u8" ? 0 : -128).simd(v.maxS).i32x4(dtype === "u8" ? 255 : 127).simd(v.minS);
        } else this.convert(from, "i32");
        f.i32x4(0xff).simd(v.and);
        break;
      case "f64": checkDType(dtype, "store"); break;
      default: dtype satisfies never;
    }
  }
  /** address, encoded lanes -> four neighbours written */
  storeRaw(dtype: DType, offset: number): void {
    const f = this.#f, t = this.#t[0];
    switch (bytesOf(dtype)) {
      case 4: f.vstore(offset); break;
      case 2: f.set(t).get(t).get(t).simd(v.narrow16U).storeLane(64, 0, offset); break;
      default: f.set(t).get(t).get(t).simd(v.narrow16S).set(t).get(t).get(t).simd(v.narrow8U).storeLane(32, 0, offset);
    }
  }
  /** encoded lanes in `x`; writes the lanes below `lanes` (4 when undefined) at p, p+s, ... ; uses q */
  scatterRaw(dtype: DType, x: Local, p: Local, s: Step, q: Local, lanes?: Local): void {
    const f = this.#f, bits = bytesOf(dtype) * 8;
    const put = (k: number): void => {
      f.get(q).get(x).storeLane(bits === 32 ? 32 : bits === 16 ? 16 : 8, (k * 32) / bits);
      if (k === 3) return;
      if (typeof s === "number") f.add(q, s); else f.addTo(q, s.local);
    };
    f.get(p).set(q);
    if (lanes === undefined) { for (let k = 0; k < 4; k++) put(k); return; }
    f.block(() => {
      for (let k = 0; k < 4; k++) {
        if (k > 0) f.get(lanes).const(k).i(0x4d).brIf(0);                                   // lanes <= k
        put(k);
      }
    });
  }
}
