/** Measured choices as data: what `tune` writes, a file keeps, and `webgpu({ tiles })` takes. */
import { FormatError } from "@adjoint/tensor";
import { type Operand, type Problem, product } from "./gemm-problem.ts";
import type { Target } from "./program.ts";
import { type Choice, fits, splitsOf, type Variant } from "./tiles.ts";

/** `entries`: the best choice of each class of problems (`classOf`) on the device that `device` names. */
export interface TileTable { readonly version: 1; readonly device: string; readonly entries: Readonly<Record<string, Choice>> }

/** Operand types and directions, and the logarithms of batch, m, n and k: "f32·f32 along·along 0 9 10 11"; codes are "q4" and "q8". */
export function classOf(p: Problem, target: Target, codes = true): string {
  const { a, b } = p.products[0], log = (x: number): number => Math.round(Math.log2(Math.max(1, x)));
  const type = ({ view: { dtype, decode } }: Operand): string => (codes && decode !== undefined ? `q${decode.bits}` : target.matmul === "f16" ? "f16" : dtype);
  return `${type(a)}·${type(b)} ${a.order}·${b.order} ${log(product(p.batch))} ${log(p.m)} ${log(p.n)} ${log(p.products.reduce((t, x) => t + x.k, 0))}`;
}

/**
 * The choice of the nearest measured class of the same operand types: at most a factor of eight away in all, another layout counting two.
 * Codes whose like was not measured take the choice of the numbers that they mean.
 */
export function lookUp(table: TileTable, p: Problem, target: Target): Choice | undefined {
  const coded = p.products.some(({ a, b }) => a.view.decode !== undefined || b.view.decode !== undefined);
  return nearest(table, p, target, true) ?? (coded ? nearest(table, p, target, false) : undefined);
}
function nearest(table: TileTable, p: Problem, target: Target, codes: boolean): Choice | undefined {
  const own = classOf(p, target, codes).split(" ");
  let best: Choice | undefined, least = 3.5;
  for (const [key, choice] of Object.entries(table.entries)) {
    const other = key.split(" ");
    if (other[0] !== own[0] || (choice.variant.kind === "vec") !== (p.m <= 4)) continue;
    const distance = (other[1] === own[1] ? 0 : 1) + [2, 3, 4, 5].reduce((t, i) => t + Math.abs(Number(other[i]) - Number(own[i])), 0);
    if (distance < least && fits(choice.variant, p, target)) { least = distance; best = choice; }
  }
  if (best === undefined) return undefined;
  const step = best.variant.kind === "vec" ? (best.variant.step ?? 4) * best.variant.lanes : best.variant.BK, wanted = best.splits;
  return { variant: best.variant, splits: splitsOf(p, step, target).findLast((s) => s <= wanted) ?? 1 };
}

/** A table from JSON. @throws FormatError that names the entry */
export function tileTable(json: unknown): TileTable {
  const bad = (key: string, value: unknown): never => { throw new FormatError(`tiles: ${key} is ${JSON.stringify(value)}`, { key, value, fix: "measure again: adjoint tune" }); };
  if (!record(json) || json["version"] !== 1) return bad("version", record(json) ? json["version"] : json);
  const { device, entries } = json;
  if (typeof device !== "string") return bad("device", device);
  if (!record(entries)) return bad("entries", entries);
  const read: Record<string, Choice> = {};
  for (const [key, e] of Object.entries(entries)) {
    if (!/^\S+ \S+( \d+){4}$/.test(key) || !record(e) || !record(e["variant"]) || !whole(e["splits"])) return bad(key, e);
    read[key] = { variant: variant(key, e["variant"], bad), splits: e["splits"] };
  }
  return { version: 1, device, entries: read };
}
const record = (x: unknown): x is Record<string, unknown> => typeof x === "object" && x !== null && !Array.isArray(x);
const whole = (x: unknown): x is number => typeof x === "number" && Number.isInteger(x) && x >= 1;
const power = (x: unknown): x is number => whole(x) && (x & (x - 1)) === 0;

function variant(key: string, v: Record<string, unknown>, bad: (key: string, value: unknown) => never): Variant {
  const { prefetch, BM, BN, BK, TM, TN, KG = 1, SM, SN, WM, WN, lanes, threads, step, config: c } = v;
  switch (v["kind"]) {
    case "tile":
      if (!power(BM) || !power(BN) || !power(BK) || !power(TM) || !power(TN) || !power(KG) || KG > BK || typeof prefetch !== "boolean" || TM < 4 || TN < 4 || BK < 4 || BM < TM || BN < TN) return bad(key, v);
      return { kind: "tile", BM, BN, BK, TM, TN, KG, prefetch };
    case "vec":
      if (!power(lanes) || !power(threads) || threads < lanes || (step !== undefined && step !== 8)) return bad(key, v);
      return { kind: "vec", lanes, threads, ...(step === undefined ? {} : { step }) };
    case "matrix": {
      if (!whole(SM) || !whole(SN) || !whole(WM) || !whole(WN) || !whole(BK) || typeof prefetch !== "boolean" || !record(c)) return bad(key, v);
      const { component, result, m, n, k } = c;
      if ((component !== "f16" && component !== "f32") || result !== "f32" || !whole(m) || !whole(n) || !whole(k) || BK % k !== 0) return bad(key, v);
      return { kind: "matrix", config: { component, result, m, n, k }, SM, SN, WM, WN, BK, prefetch };
    }
    default: return bad(key, v);
  }
}
