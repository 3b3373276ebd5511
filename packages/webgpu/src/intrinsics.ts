/**
 * WGSL functions of one and of four values: exponentials and the like to about 2 ulp, conversions and roundings exact.
 *
 * The builtins are not used where the language allows them large errors or drops special values: exp 3 + 2|x| ulp, log of
 * 0 and of negatives, tanh and sin to an absolute error only, halves by any rounding. The polynomials are those
 * of every backend. Infinities and NaN are tested and made by bits, at run time, as constants of them are refused.
 */
import { polynomials } from "@adjoint/tensor";
import type { Shader } from "./shader.ts";

export type Width = 1 | 4;

/** WGSL names of float, i32, u32 and bool at a width. */
export interface Names { readonly f: string; readonly i: string; readonly u: string; readonly b: string }
const scalar: Names = { f: "f32", i: "i32", u: "u32", b: "bool" };
const vector: Names = { f: "vec4<f32>", i: "vec4<i32>", u: "vec4<u32>", b: "vec4<bool>" };
export const namesOf = (width: Width): Names => (width === 1 ? scalar : vector);

/** A float literal; f32 numbers only. */
export function floatText(x: number): string {
  const y = Math.fround(x);
  if (Object.is(y, -0)) return "bitcast<f32>(0x80000000u)";
  const text = Math.abs(y) >= 1e21 || (y !== 0 && Math.abs(y) < 1e-6) ? y.toExponential() : `${y}`;
  return y < 0 ? `(${text}f)` : `${text}f`;
}
/** c[0] + x (c[1] + x (...)), each coefficient spelled for the width. */
function horner(x: string, c: readonly number[], n: Names): string {
  let text = `${n.f}(${floatText(c[c.length - 1])})`;
  for (let k = c.length - 2; k >= 0; k--) text = `fma(${text}, ${x}, ${n.f}(${floatText(c[k])}))`;
  return text;
}

const { ln2: { high: LN2_HI, low: LN2_LO }, exp: EXP, expm1: EXPM1, log: LOG, sin: SIN, cos: COS, erfSmall: ERF_SMALL, erfBig: ERF_BIG } = polynomials;
/** π/2 in parts of 7 bits and a rest, so that products with quadrants below 2^17 are exact (|x| up to 2·10^5) */
const HALF_PI = ((): number[] => {
  const parts: number[] = [];
  let rest = Math.PI / 2;
  for (let k = 0; k < 4; k++) {
    const unit = 2 ** (Math.floor(Math.log2(rest)) - 6), part = Math.floor(rest / unit) * unit;
    parts.push(part);
    rest -= part;
  }
  return [...parts, rest + 6.123233995736766e-17];
})();

/** x·2^n, n in [-126, 128], as two factors that are floats. */
const scale = (y: string, n: string, w: Names): string => `(${y}) * 2.0 * bitcast<${w.f}>(${w.u}(${n} + ${w.i}(126)) << ${w.u}(23u))`;

type Body = (n: Names, name: (fn: string) => string) => string;
/** Functions by name: their text, and what they call. */
const library: Readonly<Record<string, { readonly calls?: readonly string[]; readonly text: Body }>> = {
  isNaN: { text: (n, f) => `fn ${f("isNaN")}(x: ${n.f}) -> ${n.b} { return (bitcast<${n.u}>(x) & ${n.u}(0x7fffffffu)) > ${n.u}(0x7f800000u); }` },

  // e^x = 2^k e^r, |r| <= ln 2 / 2; overflows to infinity, results under 1.7e-38 become 0
  exp: { calls: ["isNaN"], text: (n, f) => `fn ${f("exp")}(x: ${n.f}) -> ${n.f} {
  let c = clamp(x, ${n.f}(-88.0f), ${n.f}(89.0f));
  let k = round(c * ${floatText(Math.LOG2E)});
  let r = (c - k * ${floatText(LN2_HI)}) - k * ${floatText(LN2_LO)};
  let p = 1.0f + (r + r * r * ${horner("r", EXP, n)});
  let y = select(${scale("p", `${n.i}(max(k, ${n.f}(-125.0f)))`, n)}, ${n.f}(0.0f), c < ${n.f}(-87.0f));
  return select(y, x, ${f("isNaN")}(x));
}` },

  // e^x - 1 for x <= 0, not under -20: the difference is never formed of near numbers
  tanh: { calls: ["isNaN"], text: (n, f) => `fn ${f("tanh")}(x: ${n.f}) -> ${n.f} {
  let a = max(abs(x) * -2.0f, ${n.f}(-20.0f));
  let k = round(a * ${floatText(Math.LOG2E)});
  let r = (a - k * ${floatText(LN2_HI)}) - k * ${floatText(LN2_LO)};
  let s = bitcast<${n.f}>(${n.u}(${n.i}(k) + ${n.i}(127)) << ${n.u}(23u));
  let m = (r + r * r * ${horner("r", EXPM1, n)}) * s + (s - 1.0f);
  let y = abs(m / (m + 2.0f));
  // not by or-ing the sign's bit into abs(..): Mesa turns that into another number
  let signed = select(y, -y, bitcast<${n.u}>(x) >= ${n.u}(0x80000000u));
  return select(signed, x, ${f("isNaN")}(x));
}` },

  // x = 2^e (1 + m), m in [√½ - 1, √2 - 1]; subnormals through their bits; 0 gives -inf, negatives NaN
  log: { text: (n, f) => `fn ${f("log")}(x: ${n.f}) -> ${n.f} {
  let bits = bitcast<${n.u}>(x);
  let small = bits < ${n.u}(0x00800000u);
  let t = bitcast<${n.i}>(select(x, ${n.f}(bits), small)) - ${n.i}(0x3f3504f3);
  let m = bitcast<${n.f}>((t & ${n.i}(0x007fffff)) + ${n.i}(0x3f3504f3)) - 1.0f;
  let e = ${n.f}(t >> ${n.u}(23u)) - select(${n.f}(0.0f), ${n.f}(149.0f), small);
  let z = m * m;
  let y = e * ${floatText(LN2_HI)} + (m + (m * z * ${horner("m", LOG, n)} + e * ${floatText(LN2_LO)} - z * 0.5f));
  var out = select(bitcast<${n.u}>(y), ${n.u}(0xff800000u), (bits << ${n.u}(1u)) == ${n.u}(0u));
  out = select(out, ${n.u}(0x7fc00000u), bits > ${n.u}(0x80000000u));
  return bitcast<${n.f}>(select(out, bits, ((bits & ${n.u}(0x7fffffffu)) >= ${n.u}(0x7f800000u)) & (bits != ${n.u}(0xff800000u))));
}` },

  // quadrant q and rest r of x, then sine or cosine of the rest
  turn: { text: (n, f) => `fn ${f("turn")}(x: ${n.f}, quarter: i32) -> ${n.f} {
  let k = round(x * ${floatText(2 / Math.PI)});
  var r = x - k * ${floatText(HALF_PI[0])};
${HALF_PI.slice(1).map((c) => `  r = r - k * ${floatText(c)};`).join("\n")}
  let q = ${n.i}(k) + ${n.i}(quarter);
  let z = r * r;
  let s = r + r * z * ${horner("z", SIN, n)};
  let c = (1.0f - z * 0.5f) + z * z * ${horner("z", COS, n)};
  let y = select(s, c, (q & ${n.i}(1)) == ${n.i}(1));
  return bitcast<${n.f}>(bitcast<${n.u}>(y) ^ ((bitcast<${n.u}>(q) >> ${n.u}(1u)) << ${n.u}(31u)));
}` },

  // x P(x²) under 1, 1 - exp(-R(|x|)) above
  erf: { calls: ["isNaN", "exp"], text: (n, f) => `fn ${f("erf")}(x: ${n.f}) -> ${n.f} {
  let a = min(abs(x), ${n.f}(4.0f));
  let z = x * x;
  let small = x * ${horner("z", ERF_SMALL, n)};
  let big = 1.0f - ${f("exp")}(-(${horner("a", ERF_BIG, n)}));
  let signed = select(big, -big, bitcast<${n.u}>(x) >= ${n.u}(0x80000000u));
  return select(select(signed, small, a < ${n.f}(1.0f)), x, ${f("isNaN")}(x));
}` },

  // 2^(y log2 |x|) with the logarithm in two floats (heads of 12 bits, so that products of heads are exact)
  pow: { calls: ["isNaN"], text: (n, f) => `fn ${f("head")}(x: ${n.f}) -> ${n.f} { return bitcast<${n.f}>(bitcast<${n.u}>(x) & ${n.u}(0xfffff000u)); }
fn ${f("pow")}(x: ${n.f}, y: ${n.f}) -> ${n.f} {
  let bits = bitcast<${n.u}>(x) & ${n.u}(0x7fffffffu);
  let small = bits < ${n.u}(0x00800000u);
  let t = bitcast<${n.i}>(select(bitcast<${n.f}>(bits), ${n.f}(bits), small)) - ${n.i}(0x3f3504f3);
  let m = bitcast<${n.f}>((t & ${n.i}(0x007fffff)) + ${n.i}(0x3f3504f3)) - 1.0f;
  let e = ${n.f}(t >> ${n.u}(23u)) - select(${n.f}(0.0f), ${n.f}(149.0f), small);
  let d = 2.0f + m;
  let dh = ${f("head")}(d);
  let dl = m - (dh - 2.0f);
  let sh = ${f("head")}(m / d);
  let sl = ((m - sh * dh) - sh * dl) / d;
  let s = sh + sl;
  let z = s * s;
  let tail = s * z * ${horner("z", [1 / 3, 1 / 5, 1 / 7, 1 / 9, 1 / 11].map((c) => c * 2 * Math.LOG2E), n)};
  let lead = sh * ${floatText(TWO_LOG2E_HEAD)};
  let sum = e + lead;
  let low = ((lead - (sum - e)) + sl * ${floatText(2 * Math.LOG2E)}) + (sh * ${floatText(2 * Math.LOG2E - TWO_LOG2E_HEAD)} + tail);
  let lh = ${f("head")}(sum + low);
  let ll = (sum - lh) + low;
  let w = clamp(y, ${n.f}(-1e30f), ${n.f}(1e30f));
  let yh = ${f("head")}(w);
  let rest = (w - yh) * lh + w * ll;
  let product = yh * lh;
  let k = clamp(round(product + rest), ${n.f}(-126.0f), ${n.f}(128.0f));
  let r = clamp((product - k) + rest, ${n.f}(-1.0f), ${n.f}(1.0f)) * ${floatText(Math.LN2)};
  let p = 1.0f + (r + r * r * ${horner("r", EXPM1, n)});
  let size = bitcast<${n.u}>(${scale("p", `${n.i}(k)`, n)});
  let inf = ${n.u}(0x7f800000u);
  let up = (y > ${n.f}(0.0f));
  var out = select(size, ${n.u}(0u), product + rest < ${n.f}(-126.0f));
  out = select(out, inf, product + rest >= ${n.f}(128.0f));
  out = select(out, select(inf, ${n.u}(0u), up), bits == ${n.u}(0u));
  out = select(out, select(${n.u}(0u), inf, up), bits == inf);
  let whole = floor(y) == y;
  let half = y * 0.5f;
  let odd = whole & (floor(half) != half) & (abs(y) < ${n.f}(16777216.0f));
  let negative = (bitcast<${n.u}>(x) >> ${n.u}(31u)) == ${n.u}(1u);
  out = select(out, out | ${n.u}(0x80000000u), negative & odd);
  out = select(out, ${n.u}(0x7fc00000u), (negative & !whole & (bits != ${n.u}(0u)) & (bits != inf)) | ${f("isNaN")}(x) | ${f("isNaN")}(y));
  return bitcast<${n.f}>(select(out, ${n.u}(0x3f800000u), (bitcast<${n.u}>(y) << ${n.u}(1u)) == ${n.u}(0u)));
}` },

  // float to integer: truncates, saturates, NaN gives 0
  toI: { calls: ["isNaN"], text: (n, f) => `fn ${f("toI")}(x: ${n.f}) -> ${n.i} {
  let y = select(${n.i}(clamp(x, ${n.f}(-2147483648.0f), ${n.f}(2147483520.0f))), ${n.i}(2147483647), x >= ${n.f}(2147483648.0f));
  return select(y, ${n.i}(0), ${f("isNaN")}(x));
}` },
  toU: { calls: ["isNaN"], text: (n, f) => `fn ${f("toU")}(x: ${n.f}) -> ${n.u} {
  let y = select(${n.u}(clamp(x, ${n.f}(0.0f), ${n.f}(4294967040.0f))), ${n.u}(0xffffffffu), x >= ${n.f}(4294967296.0f));
  return select(y, ${n.u}(0u), ${f("isNaN")}(x));
}` },
  divI: { text: (n, f) => `fn ${f("divI")}(a: ${n.i}, b: ${n.i}) -> ${n.i} {
  let minus = b == ${n.i}(-1);
  return select(select(a / select(b, ${n.i}(1), (b == ${n.i}(0)) | minus), -a, minus), ${n.i}(0), b == ${n.i}(0));
}` },
  divU: { text: (n, f) => `fn ${f("divU")}(a: ${n.u}, b: ${n.u}) -> ${n.u} { return select(a / max(b, ${n.u}(1u)), ${n.u}(0u), b == ${n.u}(0u)); }` },

  // float to the 16 bits of a half, to nearest even
  bitsF16: { text: (n, f) => `fn ${f("bitsF16")}(x: ${n.f}) -> ${n.u} {
  let b = bitcast<${n.u}>(x);
  let a = b & ${n.u}(0x7fffffffu);
  let normal = (a + ((a >> ${n.u}(13u)) & ${n.u}(1u)) + ${n.u}(0xc8000fffu)) >> ${n.u}(13u);
  let tiny = bitcast<${n.u}>(bitcast<${n.f}>(a) + 0.5f) - ${n.u}(0x3f000000u);
  let finite = select(normal & ${n.u}(0xffffu), tiny, a < ${n.u}(0x38800000u));
  let huge = select(${n.u}(0x7c00u), ${n.u}(0x7e00u), a > ${n.u}(0x7f800000u));
  return select(finite, huge, a >= ${n.u}(0x47800000u)) | ((b >> ${n.u}(16u)) & ${n.u}(0x8000u));
}` },
  bitsBf16: { text: (n, f) => `fn ${f("bitsBf16")}(x: ${n.f}) -> ${n.u} {
  let b = bitcast<${n.u}>(x);
  let y = (b + ${n.u}(0x7fffu) + ((b >> ${n.u}(16u)) & ${n.u}(1u))) >> ${n.u}(16u);
  return select(y, (b >> ${n.u}(16u)) | ${n.u}(0x40u), (b & ${n.u}(0x7fffffffu)) > ${n.u}(0x7f800000u));
}` },
  // 16 bits of a half to the float that they mean, by integers, as subnormal floats may be flushed
  widenF16: { text: (n, f) => `fn ${f("widenF16")}(h: ${n.u}) -> ${n.f} {
  let m = h & ${n.u}(0x7fffu);
  let small = bitcast<${n.u}>(${n.f}(m) * ${floatText(2 ** -24)});
  let large = (m << ${n.u}(13u)) + select(${n.u}(0x38000000u), ${n.u}(0x70000000u), m >= ${n.u}(0x7c00u));
  return bitcast<${n.f}>(select(large, small, m < ${n.u}(0x400u)) | ((h & ${n.u}(0x8000u)) << ${n.u}(16u)));
}` },
};
const TWO_LOG2E_HEAD = 2.884765625;

/** The name of a library function at a width; its text is added to the shader once, with what it calls. */
export function intrinsic(shader: Shader, fn: string, width: Width): string {
  const entry = library[fn], name = (x: string): string => `${x}_${width}`;
  if (entry === undefined) throw new Error(`webgpu: no library function ${fn}`);
  for (const c of entry.calls ?? []) intrinsic(shader, c, width);
  shader.use(name(fn), entry.text(namesOf(width), name));
  return name(fn);
}
