/** Givens rotations that are written down first and applied later, many at a time: how vectors follow an implicit QR iteration. */

/** c and s with (c s; -s c)(f, g)ᵀ = (r, 0)ᵀ. */
export interface Rotation { c: number; s: number; r: number }

/** √(f² + g²) without overflow or underflow on the way; of IEEE's own operations, which Math.hypot need not be. */
export function length(f: number, g: number): number {
  const square = f * f + g * g;
  if (square > 1e-280 && square < 1e280) return Math.sqrt(square);
  const most = Math.max(Math.abs(f), Math.abs(g)), x = f / most, y = g / most;
  return most === 0 ? 0 : most * Math.sqrt(x * x + y * y);
}

/** Sets `out` to the rotation that makes g zero. */
export function rotate(f: number, g: number, out: Rotation): void {
  if (g === 0) { out.c = 1; out.s = 0; out.r = f; return; }
  const r = length(f, g);
  out.c = f / r;
  out.s = g / r;
  out.r = r;
}

/** Rotations that are written down at most: they stay in the second cache while four rows after four pass by. */
const LIMIT = 1 << 15;

/**
 * Sweeps of rotations of neighbouring columns, applied to a matrix's rows when enough have come: a row lies in the first cache for all
 * of them, and four rows go at once, since a sweep along one row is a chain in which each rotation waits for the one before
 * (the idea of Van Zee, van de Geijn & Quintana-Ortí 2014).
 */
export class Sweeps {
  readonly #data: Float64Array;
  readonly #cols: number;
  readonly #cs: Float64Array;
  #sweeps: { readonly first: number; readonly step: number; readonly at: number; end: number }[] = [];
  #used = 0;

  /** For the rows, `cols` numbers each, of `data`. */
  constructor(data: Float64Array, cols: number) {
    this.#data = data;
    this.#cols = cols;
    this.#cs = new Float64Array(2 * Math.min(LIMIT + cols, 4 * cols * cols));
  }

  /** Begins a sweep over columns (first, first + step), (first + step, first + 2 step), ..., of at most `most` rotations. */
  begin(first: number, step: 1 | -1, most: number): void {
    if (2 * (this.#used + most) > this.#cs.length) this.flush();
    this.#sweeps.push({ first, step, at: this.#used, end: this.#used });
  }
  /** The next rotation of the sweep: (x, y) becomes (c x + s y, c y - s x). */
  push(c: number, s: number): void {
    this.#cs[2 * this.#used] = c;
    this.#cs[2 * this.#used + 1] = s;
    this.#sweeps[this.#sweeps.length - 1].end = ++this.#used;
  }

  /** Applies what was written down. */
  flush(): void {
    const x = this.#data, n = this.#cols, cs = this.#cs, rows = n === 0 ? 0 : x.length / n;
    let i = 0;
    for (; i + 4 <= rows; i += 4) for (const { first, step, at, end } of this.#sweeps) {
      let p0 = i * n + first, p1 = p0 + n, p2 = p1 + n, p3 = p2 + n, x0 = x[p0], x1 = x[p1], x2 = x[p2], x3 = x[p3];
      for (let k = at; k < end; k++, p0 += step, p1 += step, p2 += step, p3 += step) {
        const c = cs[2 * k], s = cs[2 * k + 1], y0 = x[p0 + step], y1 = x[p1 + step], y2 = x[p2 + step], y3 = x[p3 + step];
        x[p0] = c * x0 + s * y0;
        x0 = c * y0 - s * x0;
        x[p1] = c * x1 + s * y1;
        x1 = c * y1 - s * x1;
        x[p2] = c * x2 + s * y2;
        x2 = c * y2 - s * x2;
        x[p3] = c * x3 + s * y3;
        x3 = c * y3 - s * x3;
      }
      x[p0] = x0;
      x[p1] = x1;
      x[p2] = x2;
      x[p3] = x3;
    }
    for (; i < rows; i++) for (const { first, step, at, end } of this.#sweeps) {
      let p = i * n + first, carried = x[p];
      for (let k = at; k < end; k++, p += step) {
        const c = cs[2 * k], s = cs[2 * k + 1], y = x[p + step];
        x[p] = c * carried + s * y;
        carried = c * y - s * carried;
      }
      x[p] = carried;
    }
    this.#sweeps = [];
    this.#used = 0;
  }
}
