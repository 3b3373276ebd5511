/** Iteration spaces made small, and the argument block from which a kernel reads sizes, strides, pointers and numbers. */
import { type Affine, bytesOf, type DType, type View } from "@adjoint/tensor";

/** 0 the element repeats along the inner axis, 1 neighbours are contiguous, 2 anything else. */
export type StrideClass = 0 | 1 | 2;

/** A space whose axes were dropped (size 1) and merged (contiguous in every operand) inside each group of axes. */
export interface Space {
  readonly shape: number[];
  /** axes in each group */
  readonly groups: number[];
  /** strides of each operand over `shape` */
  readonly strides: number[][];
}

/** Merges adjacent axes of each group where all operands allow it; `lists` are the operands' strides. */
export function collapse(shape: readonly number[], groups: readonly number[], lists: readonly (readonly number[])[]): Space {
  const out: Space = { shape: [], groups: [], strides: lists.map(() => []) };
  let axis = 0;
  for (const count of groups) {
    let kept = 0;
    for (const end = axis + count; axis < end; axis++) {
      const size = shape[axis], last = out.shape.length - 1;
      if (size === 1) continue;
      if (kept > 0 && lists.every((l, j) => out.strides[j][last] === l[axis] * size)) {
        out.shape[last] *= size;
        lists.forEach((l, j) => { out.strides[j][last] = l[axis]; });
      } else {
        out.shape.push(size);
        lists.forEach((l, j) => out.strides[j].push(l[axis]));
        kept++;
      }
    }
    out.groups.push(kept);
  }
  return out;
}

/** Puts the inner axis of size 1 back that collapse dropped, as every skeleton has an inner loop. */
export function withInner(s: Space): Space {
  const last = s.groups.length - 1;
  if (s.groups[last] > 0) return s;
  return { shape: [...s.shape, 1], groups: s.groups.map((g, i) => (i === last ? 1 : g)), strides: s.strides.map((l) => [...l, 0]) };
}

export const classOf = (stride: number): StrideClass => (stride === 0 ? 0 : stride === 1 ? 1 : 2);
export const product = (xs: readonly number[]): number => xs.reduce((a, b) => a * b, 1);

/** An operand as code sees it. */
export interface Operand {
  readonly dtype: DType;
  readonly inner: StrideClass;
  /** position in the kernel's uniforms of a start that is data */
  readonly at: number | undefined;
}

/** What a function's code depends on; equal shapes of argument blocks have equal words. */
export interface Signature {
  readonly rank: number;
  readonly views: readonly Operand[];
  /** stride class of each affine leaf on the inner axis (0 or 2) */
  readonly affines: readonly StrideClass[];
  readonly uniforms: number;
  /** further words, by name */
  readonly extras: readonly string[];
}

/** A pointer inside an argument block that follows a buffer. */
export interface Patch { readonly word: number; readonly buffer: number; readonly bytes: number }

/** Words of an argument block: uniforms' address, sizes, views, affines, uniforms' places, extras. */
export class Layout {
  readonly signature: Signature;
  readonly words: number;
  constructor(s: Signature) { this.signature = s; this.words = this.#extra(s.extras.length); }
  get #stride(): number { return this.signature.rank; }
  readonly uniformBase = 0;
  size(axis: number): number { return 1 + axis; }
  /** word of a view's pointer; then its `at` stride in bytes, then its strides in bytes */
  view(i: number): number { return 1 + this.#stride + i * (2 + this.#stride); }
  affine(i: number): number { return this.view(this.signature.views.length) + i * (1 + this.#stride); }
  uniform(i: number): number { return this.affine(this.signature.affines.length) + i; }
  #extra(i: number): number { return this.uniform(this.signature.uniforms) + i; }
  extra(name: string): number {
    const i = this.signature.extras.indexOf(name);
    if (i < 0) throw new Error(`wasm: no argument word named ${name}`);
    return this.#extra(i);
  }

  /** Fills a block; pointers are left to patches. */
  fill(words: Int32Array, space: Space, views: readonly View[], affines: readonly Affine[], uniforms: readonly number[], extras: Readonly<Record<string, number>>): Patch[] {
    const patches: Patch[] = [];
    space.shape.forEach((n, a) => { words[this.size(a)] = n; });
    views.forEach((view, i) => {
      const w = this.view(i), b = bytesOf(view.dtype);
      patches.push({ word: w, buffer: view.buffer, bytes: view.offset * b });
      words[w + 1] = (view.at?.stride ?? 0) * b;
      space.strides[i].forEach((s, a) => { words[w + 2 + a] = s * b; });
    });
    affines.forEach((x, i) => {
      const w = this.affine(i);
      words[w] = x.offset;
      space.strides[views.length + i].forEach((s, a) => { words[w + 1 + a] = s; });
    });
    uniforms.forEach((u, i) => { words[this.uniform(i)] = u * 4; });
    for (const [name, value] of Object.entries(extras)) words[this.extra(name)] = value;
    return patches;
  }
}

/** The part of a kernel's key that is not its formula. */
export function signatureKey(s: Signature): string {
  return `${s.rank}|${s.views.map((w) => `${w.dtype}${w.inner}${w.at === undefined ? "" : `@${w.at}`}`).join()}|${s.affines.join("")}|${s.uniforms}`;
}
