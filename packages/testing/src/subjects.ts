/** A subject is an op with everything needed to try it: random arguments, and whether it has a gradient. */
import fc from "fast-check";
import { type Binary, type Domain, type Op, type Tensor, type Unary, isFloat, showExpr, leaf } from "@adjoint/tensor";
import { type Draw, broadcastPairs, draws, shapes, showDraw } from "./arbitraries.ts";

/** One random use of an op. */
export interface Sample {
  readonly inputs: readonly Draw[];
  readonly apply: (xs: readonly Tensor[]) => Tensor;
  readonly text: string;
}
/** An op under test. */
export interface Subject {
  readonly name: string;
  readonly samples: fc.Arbitrary<Sample>;
  /** whether gradients of its float inputs are compared with differences */
  readonly smooth: boolean;
  /** identities that the op claims */
  readonly laws?: Op["laws"];
}
/** A function made by `unary` or `binary`, or any other subject. */
export type Testable = Subject | Unary | Binary;

/** A sample with a readable counterexample. */
export function sample(name: string, inputs: readonly Draw[], apply: Sample["apply"], attrs = ""): Sample {
  const text = `${name}(${[...inputs.map(showDraw), ...(attrs === "" ? [] : [attrs])].join(", ")})`;
  return Object.defineProperty({ inputs, apply, text }, fc.toStringMethod, { value: () => text, enumerable: false });
}

const reals: Domain = { low: -3, high: 3 };

/** The subject of a testable value: a pointwise op is described by its own entry. */
export function subjectOf(testable: Testable): Subject {
  return "samples" in testable ? testable : pointwise(testable, testable.op);
}

function pointwise(f: Unary | Binary, op: Op): Subject {
  const arity = f.length, domain = (i: number): Domain => op.domain?.[i] ?? op.domain?.[0] ?? reals;
  const integer = domain(0).dtype !== undefined && !isFloat(domain(0).dtype ?? "f32");
  const samples = arity === 1
    ? shapes({ maxRank: 4 }).chain((shape) => draws(shape, domain(0))).map((x) => sample(op.name, [x], ([t]) => call(f, [t])))
    : broadcastPairs.chain(({ a, b }) => fc.tuple(draws(a, domain(0)), draws(b, domain(1)))).map((xs) => sample(op.name, xs, (ts) => call(f, ts)));
  return { name: op.name, samples, smooth: !integer && hasSlope(op, arity), laws: op.laws };
}
/** Unary and binary functions, called with a list. */
function call(f: Unary | Binary, xs: readonly Tensor[]): Tensor {
  const [a, b] = xs;
  return f(a, b);
}
/** Steps and comparisons have no slope to compare: their formula has a kink at every point that differences may cross. */
function hasSlope(op: Op, arity: number): boolean {
  if (!op.vjp || !op.forward) return false;
  const formula = op.forward(Array.from({ length: arity }, (_, i) => leaf("load", i, "float")), { op, attrs: null, shape: [], dtype: "f32" }, () => leaf("affine", 0, "i32"));
  return formula.type === "float" && !/^floor\(/.test(showExpr(formula));
}
