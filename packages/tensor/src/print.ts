/** Readable printing of host arrays, after NumPy: aligned columns, shared decimals, an ellipsis where there is much. */
import { decode, isFloat, type HostArray } from "./dtype.ts";
import { sizeOf } from "./shape.ts";

/** How much is shown. */
export interface PrintOptions {
  /** most decimals; default 4 */
  readonly precision?: number;
  /** above so many values, only edges are shown; default 1000 */
  readonly threshold?: number;
  /** values shown at each end of a long axis; default 3 */
  readonly edge?: number;
  /** columns to wrap rows at; default 100 */
  readonly width?: number;
}

const GAP = -1;
const range = (n: number): number[] => Array.from({ length: n }, (_, i) => i);

/**
 * The values of a host array as nested brackets, e.g. `[[1.   2.5 ]\n [0.25 -3. ]]` with commas between values.
 *
 * Floats share one number of decimals, at most `precision`, and turn to exponents where that would hide them (largest
 * above 1e8, smallest nonzero below 1e-4, or more than three orders apart and above 1e3).
 */
export function printArray({ dtype, shape, data }: HostArray, { precision = 4, threshold = 1000, edge = 3, width = 100 }: PrintOptions = {}): string {
  const short = sizeOf(shape) > threshold;
  const places = (n: number): number[] => (short && n > 2 * edge ? [...range(edge), GAP, ...range(edge).map((i) => n - edge + i)] : range(n));
  const shown: number[] = [];
  const visit = (axis: number, at: number): void => {
    if (axis === shape.length) { shown.push(decode(dtype, data[at])); return; }
    for (const i of places(shape[axis])) if (i !== GAP) visit(axis + 1, at * shape[axis] + i);
  };
  visit(0, 0);
  const text = dtype === "bool" ? (x: number): string => (x ? "true" : "false") : isFloat(dtype) ? floatFormat(shown, precision) : String;
  const column = Math.max(...shown.map((x) => text(x).length));

  const show = (axis: number, at: number): string => {
    if (axis === shape.length) return text(decode(dtype, data[at])).padStart(column);
    const parts = places(shape[axis]).map((i) => (i === GAP ? "..." : show(axis + 1, at * shape[axis] + i)));
    const indent = " ".repeat(axis + 1);
    if (axis === shape.length - 1) return `[${wrap(parts, width - axis - 1).join(`,\n${indent}`)}]`;
    return `[${parts.join(`,${"\n".repeat(shape.length - axis - 1)}${indent}`)}]`;
  };
  return shape.length === 0 ? text(shown[0]) : show(0, 0);
}

/** Joins values by commas into lines of at most `width` characters. */
function wrap(parts: readonly string[], width: number): string[] {
  const lines: string[] = [];
  let line = "";
  for (const part of parts) {
    if (line !== "" && line.length + 2 + part.length > width) { lines.push(line); line = ""; }
    line = line === "" ? part : `${line}, ${part}`;
  }
  return [...lines, line];
}

/** One format for all values: fixed decimals as few as show every value to `precision` places, or exponents. */
function floatFormat(values: readonly number[], precision: number): (x: number) => string {
  const finite = values.filter(Number.isFinite).map(Math.abs), nonzero = finite.filter((x) => x > 0);
  const most = Math.max(0, ...nonzero), least = Math.min(Infinity, ...nonzero);
  const special = (x: number): string => (Number.isNaN(x) ? "nan" : x > 0 ? "inf" : "-inf");
  if (most >= 1e8 || least < 1e-4 || (most > 1e3 && least < 1e-1 && most / least > 1e7)) {
    return (x) => (Number.isFinite(x) ? x.toExponential(precision) : special(x));
  }
  const decimals = (x: number): number => {
    const [, fraction = ""] = x.toFixed(precision).replace(/0+$/, "").split(".");
    return fraction.length;
  };
  const places = Math.max(0, ...finite.map(decimals));
  return (x) => (!Number.isFinite(x) ? special(x) : places === 0 ? `${x.toFixed(0)}.` : x.toFixed(places));
}
