/**
 * Tiles of attention kernels, and the two loops that all of them are made of.
 *
 * A workgroup owns R rows (queries of all heads of a group, or keys) and passes over the other side C rows at a time.
 * Own rows lie transposed in workgroup memory, four rows a vec4; passing rows lie as they are, four numbers of a head a
 * vec4. Thread (tx, ty) has scores of own rows 4 ty ... 4 ty + 3 (the components of a vec4) with passing rows
 * tx + j TX, and columns tx + n TX of what is summed up for its own rows.
 */
import type { Target } from "../program.ts";

/** R own rows (a multiple of 4), C passing rows (a multiple of TX), TX threads side by side; R / 4 below each other. */
export interface AttentionTile { readonly R: number; readonly C: number; readonly TX: number }
export type AttentionKind = "forward" | "queries" | "keys";

const tile = (R: number, C: number, TX: number): AttentionTile => ({ R, C, TX });
/** The first that fits is taken. */
const ladder: readonly AttentionTile[] = [tile(64, 32, 8), tile(64, 16, 8), tile(32, 32, 8), tile(32, 16, 8), tile(32, 8, 8), tile(16, 16, 8), tile(16, 8, 8), tile(8, 8, 8), tile(8, 4, 4), tile(4, 4, 4)];
/** Few queries, as when decoding: more keys at once. */
const few: readonly { readonly rows: number; readonly tile: AttentionTile }[] = [{ rows: 4, tile: tile(4, 64, 64) }, { rows: 16, tile: tile(16, 64, 32) }];
/** All tiles, for tests. */
export const attentionTiles: readonly AttentionTile[] = [...ladder, ...few.map((f) => f.tile)];

/** vec4s of a head. */
export const columns = (size: number): number => Math.ceil(size / 4);
export const threadsOf = ({ R, TX }: AttentionTile): number => (R / 4) * TX;

/** vec4s of workgroup memory: own rows, passing rows, probabilities, and what rows exchange. */
export function memoryOf(kind: AttentionKind, { R, C, TX }: AttentionTile, size: number): { own: number; passing: number; scores: number; exchange: number } {
  const d = columns(size);
  return { own: 4 * d * (R / 4), passing: C * (d + 1), scores: C * (R / 4 + 1), exchange: kind === "forward" ? TX * (R / 4) : 0 };
}
export function bytesOfTile(kind: AttentionKind, t: AttentionTile, size: number): number {
  const m = memoryOf(kind, t, size);
  return 16 * (kind === "forward" ? m.own + m.passing + m.scores + m.exchange : kind === "queries" ? 2 * m.own + m.passing + m.scores : 2 * (m.own + m.passing + m.scores));
}

/**
 * The tile of a kernel for heads of this size, `own` own rows and `passing` passing ones, `pairs` times. Small problems get small tiles, and
 * tiles shrink down to 16 rows while they would leave half of the device idle.
 */
export function chooseTile(kind: AttentionKind, size: number, { own, passing, pairs }: { readonly own: number; readonly passing: number; readonly pairs: number }, { limits, units }: Target): AttentionTile | null {
  const fits = (t: AttentionTile): boolean => bytesOfTile(kind, t, size) <= limits.workgroupBytes && threadsOf(t) <= limits.invocations;
  const special = kind === "forward" && passing >= 64 ? few.find((f) => own <= f.rows && fits(f.tile)) : undefined;
  if (special) return special.tile;
  const fitting = ladder.filter((t) => fits(t) && t.R < 2 * Math.max(own, 8) && t.C < 2 * Math.max(passing, 8)), busy = fitting.find((t) => Math.ceil(own / t.R) * pairs >= 2 * units);
  return busy ?? fitting.find((t) => t.R <= 16) ?? fitting[fitting.length - 1] ?? ladder.find(fits) ?? null;
}

const component = "xyzw";
/** Loads in flight at once; more are a loop. */
const MOST_SLOTS = 8;
/** WGSL around one tile shape. */
export class TileText {
  readonly t: AttentionTile;
  readonly d: number;
  /** vec4s from passing row to passing row, from score row to score row; padded against bank conflicts */
  readonly row: number;
  readonly scoreRow: number;
  /** scores and columns of a thread */
  readonly scores: number;
  readonly cols: number;
  readonly threads: number;
  constructor(t: AttentionTile, size: number) {
    this.t = t; this.d = columns(size); this.row = this.d + 1; this.scoreRow = t.R / 4 + 1;
    this.scores = t.C / t.TX; this.cols = Math.ceil(this.d / t.TX); this.threads = threadsOf(t);
  }
  each<T>(n: number, f: (i: number) => T): T[] { return Array.from({ length: n }, (_, i) => f(i)); }
  /** Where a thread stands, and its columns, kept inside a row. */
  place(): string[] {
    return [`let tx = li % ${this.t.TX}u; let ty = li / ${this.t.TX}u;`, ...this.each(this.cols, (n) => `let col${n} = min(tx + ${n * this.t.TX}u, ${this.d - 1}u);`)];
  }
  /** Own rows into `memory`, transposed; `load(row, c)` is column c of the own row of that number (0 to R - 1). */
  keepOwn(memory: string, load: (row: string, c: string) => string, factor = ""): string[] {
    const rows = this.t.R / 4, count = rows * this.d;
    return [`for (var p = li; p < ${count}u; p += ${this.threads}u) {`, `let c = p % ${this.d}u; let r = p / ${this.d}u;`,
      ...this.each(4, (e) => `let x${e} = ${load(`r * 4u + ${e}u`, "c")}${factor};`),
      ...this.each(4, (e) => `${memory}[(c * 4u + ${e}u) * ${rows}u + r] = vec4<f32>(${this.each(4, (i) => `x${i}.${component[e]}`).join(", ")});`), "}"];
  }
  /** Passing rows into `memory`: all loads first, then all stores; `name` keeps registers apart. */
  pass(memory: string, name: string, load: (row: string, c: string) => string): string[] {
    const count = this.t.C * this.d, slots = Math.ceil(count / this.threads), read: string[] = [], write: string[] = [];
    if (slots > MOST_SLOTS) return [`for (var p = li; p < ${count}u; p += ${this.threads}u) { ${memory}[(p / ${this.d}u) * ${this.row}u + p % ${this.d}u] = ${load(`(p / ${this.d}u)`, `(p % ${this.d}u)`)}; }`];
    for (let n = 0; n < slots; n++) {
      const p = `(li + ${n * this.threads}u)`, x = `${name}${n}`, last = (n + 1) * this.threads > count;
      read.push(`var ${x} = vec4<f32>();`, `${last ? `if (${p} < ${count}u) ` : ""}{ ${x} = ${load(`(${p} / ${this.d}u)`, `(${p} % ${this.d}u)`)}; }`);
      write.push(`${last ? `if (${p} < ${count}u) ` : ""}{ ${memory}[(${p} / ${this.d}u) * ${this.row}u + ${p} % ${this.d}u] = ${x}; }`);
    }
    return [...read, ...write];
  }
  /** `out`j = Σ_c own · passing row tx + j TX, as vec4s of four own rows. */
  score(out: string, own: string, passing: string): string[] {
    const rows = this.t.R / 4;
    return [
      ...this.each(this.scores, (j) => `var ${out}${j} = vec4<f32>();`),
      `for (var c = 0u; c < ${this.d}u; c++) {`,
      ...this.each(4, (e) => `let a${e} = ${own}[(c * 4u + ${e}u) * ${rows}u + ty];`),
      ...this.each(this.scores, (j) => [
        `let x${j} = ${passing}[(tx + ${j * this.t.TX}u) * ${this.row}u + c];`,
        ...this.each(4, (e) => `${out}${j} = fma(a${e}, vec4<f32>(x${j}.${component[e]}), ${out}${j});`),
      ]).flat(),
      "}",
    ];
  }
  /** Scores of a thread into `memory`, for all. */
  share(memory: string, value: (j: number) => string): string[] {
    return this.each(this.scores, (j) => `${memory}[(tx + ${j * this.t.TX}u) * ${this.scoreRow}u + ty] = ${value(j)};`);
  }
  sums(out: string): string[] { return this.each(4, (i) => this.each(this.cols, (n) => `var ${out}${i}_${n} = vec4<f32>();`)).flat(); }
  /** `out` of own rows and columns += Σ over passing rows of score · passing row, for several sums at once. */
  accumulate(parts: readonly { readonly out: string; readonly scores: string; readonly passing: string }[]): string[] {
    return [
      `for (var r = 0u; r < ${this.t.C}u; r++) {`,
      ...parts.flatMap(({ out, scores, passing }, k) => [
        `let p${k} = ${scores}[r * ${this.scoreRow}u + ty];`,
        ...this.each(this.cols, (n) => [
          `let y${k}_${n} = ${passing}[r * ${this.row}u + col${n}];`,
          ...this.each(4, (i) => `${out}${i}_${n} = fma(vec4<f32>(p${k}.${component[i]}), y${k}_${n}, ${out}${i}_${n});`),
        ]).flat(),
      ]),
      "}",
    ];
  }
  /** For each own row i of a thread that exists, with its `address`, and each column: `write(column, sum)` under i. */
  results(out: string, exists: (i: number) => string, address: (i: number) => string, write: (i: number, column: string, sum: string) => string): string[] {
    return this.each(4, (i) => [`if (${exists(i)}) { let address = ${address(i)};`, ...this.each(this.cols, (n) => {
      const whole = (n + 1) * this.t.TX <= this.d, text = write(i, `col${n}`, `${out}${i}_${n}`);
      return whole ? text : `if (tx + ${n * this.t.TX}u < ${this.d}u) { ${text} }`;
    }), "}"]).flat();
  }
}
