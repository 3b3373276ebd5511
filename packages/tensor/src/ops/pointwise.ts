/** The pointwise primitives: scalar formula, textbook gradient, test domain. */
import { type DType, isFloat } from "../dtype.ts";
import { DTypeError } from "../errors.ts";
import type { Expr } from "../expr.ts";
import { type Binary, type Operand, type Unary, binary, broadcast, commonShape, integers, nonzero, positive, reals, unary, unify } from "../op.ts";
import { type NodeLike, type Op, type Tensor, record } from "../tensor.ts";

const numeric = (d: DType): boolean => d !== "bool";
const integral = (d: DType): boolean => !isFloat(d);

export const add: Binary = binary("add", { forward: (a, b) => a.add(b), vjp: (g) => [g, g], domain: [reals, reals], accepts: numeric, laws: { commutes: (a, b) => [add(a, b), add(b, a)] } });
export const sub: Binary = binary("sub", { forward: (a, b) => a.sub(b), vjp: (g) => [g, neg(g)], domain: [reals, reals], accepts: numeric });
export const mul: Binary = binary("mul", { forward: (a, b) => a.mul(b), vjp: (g, { inputs: [a, b] }) => [mul(g, b), mul(g, a)], domain: [reals, reals], accepts: numeric, laws: { commutes: (a, b) => [mul(a, b), mul(b, a)] } });
export const div: Binary = binary("div", { forward: (a, b) => a.div(b), vjp: (g, y) => [div(g, y.inputs[1]), neg(div(mul(g, y), y.inputs[1]))], domain: [reals, nonzero], accepts: isFloat });
/** a^b for a > 0 (a = 0 only with b > 0). */
export const pow: Binary = binary("pow", { forward: (a, b) => a.pow(b), vjp: (g, y) => [mul(mul(g, y.inputs[1]), pow(y.inputs[0], sub(y.inputs[1], 1))), mul(mul(g, y), log(y.inputs[0]))], domain: [positive, reals], accepts: isFloat });
/** Larger of two; equal values share the gradient. */
export const maximum: Binary = binary("maximum", { forward: (a, b) => a.max(b), vjp: (g, { inputs: [a, b] }) => choose(g, a, b), domain: [reals, reals], accepts: numeric });
/** Smaller of two; equal values share the gradient. */
export const minimum: Binary = binary("minimum", { forward: (a, b) => a.min(b), vjp: (g, { inputs: [a, b] }) => choose(g, neg(a), neg(b)), domain: [reals, reals], accepts: numeric });
const choose = (g: Tensor, a: Tensor, b: Tensor): Tensor[] => {
  const share = mul(cast(eq(a, b), g.dtype), 0.5);
  return [mul(g, add(cast(gt(a, b), g.dtype), share)), mul(g, add(cast(lt(a, b), g.dtype), share))];
};

export const neg: Unary = unary("neg", { forward: (x) => x.neg(), vjp: (g) => [neg(g)], domain: [reals], accepts: numeric, laws: { involution: (x) => [neg(neg(x)), x] } });
export const abs: Unary = unary("abs", { forward: (x) => x.abs(), vjp: (g, { inputs: [x] }) => [mul(g, sub(cast(gt(x, 0), g.dtype), cast(lt(x, 0), g.dtype)))], domain: [nonzero], accepts: numeric, laws: { even: (x) => [abs(neg(x)), abs(x)] } });
export const exp: Unary = unary("exp", { forward: (x) => x.exp(), vjp: (g, y) => [mul(g, y)], domain: [reals], accepts: isFloat, laws: { sumsToProduct: (x) => [exp(neg(x)), div(1, exp(x))] } });
export const log: Unary = unary("log", { forward: (x) => x.log(), vjp: (g, { inputs: [x] }) => [div(g, x)], domain: [positive], accepts: isFloat });
export const sqrt: Unary = unary("sqrt", { forward: (x) => x.sqrt(), vjp: (g, y) => [div(mul(g, 0.5), y)], domain: [positive], accepts: isFloat });
export const rsqrt: Unary = unary("rsqrt", { forward: (x) => x.rsqrt(), vjp: (g, y) => [mul(mul(g, -0.5), mul(y, mul(y, y)))], domain: [positive], accepts: isFloat });
/** Hyperbolic tangent, odd and bounded: d tanh(x)/dx = 1 - tanh²(x). */
export const tanh: Unary = unary("tanh", { forward: (x) => x.tanh(), vjp: (g, y) => [mul(g, sub(1, mul(y, y)))], domain: [reals], accepts: isFloat, laws: { odd: (x) => [tanh(neg(x)), neg(tanh(x))] } });
export const sin: Unary = unary("sin", { forward: (x) => x.sin(), vjp: (g, { inputs: [x] }) => [mul(g, cos(x))], domain: [reals], accepts: isFloat });
export const cos: Unary = unary("cos", { forward: (x) => x.cos(), vjp: (g, { inputs: [x] }) => [neg(mul(g, sin(x)))], domain: [reals], accepts: isFloat });
/** Gauss error function: d erf(x)/dx = 2/√π · exp(-x²). */
export const erf: Unary = unary("erf", { forward: (x) => x.erf(), vjp: (g, { inputs: [x] }) => [mul(mul(g, 2 / Math.sqrt(Math.PI)), exp(neg(mul(x, x))))], domain: [reals], accepts: isFloat, laws: { odd: (x) => [erf(neg(x)), neg(erf(x))] } });
export const floor: Unary = unary("floor", { forward: (x) => x.floor(), vjp: () => [null], accepts: isFloat });

export const lt: Binary = binary("lt", { forward: (a, b) => a.lt(b), result: "bool", vjp: () => [null, null], accepts: numeric });
export const le: Binary = binary("le", { forward: (a, b) => a.le(b), result: "bool", vjp: () => [null, null], accepts: numeric });
export const gt: Binary = binary("gt", { forward: (a, b) => a.gt(b), result: "bool", vjp: () => [null, null], accepts: numeric });
export const ge: Binary = binary("ge", { forward: (a, b) => a.ge(b), result: "bool", vjp: () => [null, null], accepts: numeric });
export const eq: Binary = binary("eq", { forward: (a, b) => a.eq(b), result: "bool", vjp: () => [null, null], accepts: numeric });
export const ne: Binary = binary("ne", { forward: (a, b) => a.ne(b), result: "bool", vjp: () => [null, null], accepts: numeric });
/** Bitwise on integers, logical on bool. */
export const bitAnd: Binary = binary("bitAnd", { forward: (a, b) => a.and(b), vjp: () => [null, null], accepts: integral, domain: [integers, integers] });
export const bitOr: Binary = binary("bitOr", { forward: (a, b) => a.or(b), vjp: () => [null, null], accepts: integral, domain: [integers, integers] });
export const bitXor: Binary = binary("bitXor", { forward: (a, b) => a.xor(b), vjp: () => [null, null], accepts: integral, domain: [integers, integers] });
export const not: Unary = unary("not", { forward: (a) => a.not(), vjp: () => [null], accepts: integral });

/** condition ? a : b, elementwise. */
export const whereOp: Op = {
  name: "where", kind: "map", forward: ([c, a, b]) => c.select(a, b),
  vjp: (g, { inputs: [c] }) => [null, where(c, g, 0), where(c, 0, g)],
};
export function where(condition: Tensor, a: Operand, b: Operand): Tensor {
  if (condition.dtype !== "bool") throw new DTypeError(`where: the condition is ${condition.dtype}, not bool`, { op: "where", fix: "compare first: x.ne(0)" });
  const [x, y] = unify("where", a, b), inputs = broadcast("where", [condition, x, y]);
  return record(whereOp, inputs, null, commonShape(inputs), x.dtype);
}

/** Converts element types: floats round to nearest even, float to integer truncates and saturates, integers wrap. */
export const castOp: Op = { name: "cast", kind: "map", forward: ([x], node) => castExpr(x, node), vjp: (g, { inputs: [x] }) => [isFloat(x.dtype) ? cast(g, x.dtype === "f64" ? "f64" : "f32") : null] };
export function cast(x: Tensor, dtype: DType): Tensor {
  return x.dtype === dtype ? x : record(castOp, [x], null, x.shape, dtype);
}
function castExpr(x: Expr, { dtype }: NodeLike): Expr {
  switch (dtype) {
    case "f64": case "f32": case "f16": case "bf16": return x.toF();
    case "i32": return x.toI();
    case "u32": return x.toU();
    case "bool": return x.toB();
    case "u8": return x.type === "float" ? x.toI().max(0).min(255) : x.toI();
    case "i8": return x.type === "float" ? x.toI().max(-128).min(127) : x.toI();
    default: return dtype satisfies never;
  }
}
/** What storing in this dtype does to a value that stays in registers: fused and stored results are equal. */
export function rounded(e: Expr, dtype: DType): Expr {
  switch (dtype) {
    case "f16": return e.roundF16();
    case "bf16": return e.roundBf16();
    case "u8": return e.and(255);
    case "i8": return e.shl(24).shr(24);
    default: return e;
  }
}
export const square = (x: Tensor): Tensor => mul(x, x);
export const reciprocal = (x: Tensor): Tensor => div(1, x);
