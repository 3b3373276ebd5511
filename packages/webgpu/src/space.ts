/** Iteration spaces made small, and the WGSL text of indices and addresses: sizes, strides and offsets are parameters. */
import { type Affine, type Expr, type ExprType, type PlanSpec, type StoreTo, type View, walk } from "@adjoint/tensor";
import { bindLoads, bindStores, checkDType, loadElement, loadVec4, storeElement, storeVec4, typeOf } from "./element.ts";
import type { Width } from "./intrinsics.ts";
import { convert, type Leaves, wgslType } from "./printer.ts";
import type { Shader } from "./shader.ts";

/** A space whose axes were dropped (size 1) and merged (contiguous in every operand) inside each group of axes. */
export interface Space {
  readonly shape: readonly number[];
  /** axes in each group */
  readonly groups: readonly number[];
  /** strides of each operand over `shape` */
  readonly strides: readonly (readonly number[])[];
}

/** Merges adjacent axes of each group where all operands allow it; `lists` are the operands' strides. */
export function collapse(shape: readonly number[], groups: readonly number[], lists: readonly (readonly number[])[]): Space {
  const sizes: number[] = [], kept: number[] = [], strides: number[][] = lists.map(() => []);
  let axis = 0;
  for (const count of groups) {
    let own = 0;
    for (const end = axis + count; axis < end; axis++) {
      const size = shape[axis], last = sizes.length - 1;
      if (size === 1) continue;
      if (own > 0 && lists.every((l, j) => strides[j][last] === l[axis] * size)) {
        sizes[last] *= size;
        lists.forEach((l, j) => { strides[j][last] = l[axis]; });
      } else {
        sizes.push(size);
        lists.forEach((l, j) => strides[j].push(l[axis]));
        own++;
      }
    }
    kept.push(own);
  }
  return { shape: sizes, groups: kept, strides };
}
/** Puts the inner axis of size 1 back that collapse dropped, as every kernel has one. */
export function withInner(s: Space): Space {
  const last = s.groups.length - 1;
  if (s.groups[last] > 0) return s;
  return { shape: [...s.shape, 1], groups: s.groups.map((g, i) => (i === last ? 1 : g)), strides: s.strides.map((l) => [...l, 0]) };
}
export const product = (xs: readonly number[]): number => xs.reduce((a, b) => a * b, 1);
export const ceilDiv = (a: number, b: number): number => Math.floor((a + b - 1) / b);
export const powerUp = (x: number): number => 2 ** Math.ceil(Math.log2(Math.max(1, x)));

/** Whether four neighbours along the last axis are one aligned vector for every index. */
export function aligned(view: View, strides: readonly number[]): boolean {
  const last = strides.length - 1;
  return strides[last] === 1 && view.offset % 4 === 0 && strides.every((s, a) => a === last || s % 4 === 0) && (view.at === undefined || view.at.stride % 4 === 0);
}

/** A kernel's operands as a skeleton sees them. */
export interface Operands {
  readonly loads: readonly View[];
  readonly affines: readonly Affine[];
  readonly uniforms: readonly number[];
  readonly stores: readonly StoreTo[];
}
/** Strides of loads, stores and affines, in this order. */
export const stridesOf = (k: Operands): (readonly number[])[] => [...k.loads.map((v) => v.strides), ...k.stores.map((s) => s.view.strides), ...k.affines.map((a) => a.strides)];

/** The WGSL text of each axis' index at a point; "" where an axis does not count. */
export type IndexText = readonly string[];

/** Writes the accesses of one kernel: where its views lie at given indices, and their elements. */
export class Access {
  readonly shader: Shader;
  readonly #k: Operands;
  readonly #space: Space;
  readonly #plan: PlanSpec;
  readonly #vec: readonly boolean[];
  readonly #words = new Map<string, string>();

  /** `roots`: the formulas printed here; `quads`: points come by four along the last axis, so aligned views are read and written as vectors. */
  constructor(shader: Shader, plan: PlanSpec, k: Operands, space: Space, roots: readonly Expr[], quads: boolean, label: string) {
    this.shader = shader; this.#plan = plan; this.#k = k; this.#space = space;
    const views = [...k.loads, ...k.stores.map((s) => s.view)];
    for (const v of views) checkDType(v.dtype, label);
    this.#vec = views.map((v, i) => quads && aligned(v, space.strides[i]));
    bindStores(shader, k.stores, (i) => this.#vec[k.loads.length + i]);
    const used = new Set<number>();
    walk(roots, (e) => { if (e.fn === "load") used.add(e.leaf); });
    const read = [...used].sort((a, b) => a - b);
    bindLoads(shader, read.map((i) => k.loads[i]), (j) => this.#vec[read[j]]);
  }

  #param(key: string, value: number, type: "u32" | "i32" = "u32"): string {
    let word = this.#words.get(key);
    if (word === undefined) this.#words.set(key, (word = this.shader.param(value, type)));
    return word;
  }
  size(axis: number): string { return this.#param(`n${axis}`, this.#space.shape[axis]); }

  /** offset + Σ index·stride of an operand, over the axes whose index is given (others are left out). */
  #sum(i: number, offset: number, index: IndexText, i32: boolean): string {
    const type = i32 ? "i32" : "u32", cast = (x: string): string => (i32 ? `i32(${x})` : x);
    let text = this.#param(`o${i}`, offset, type);
    index.forEach((x, a) => {
      const stride = this.#space.strides[i][a];
      if (stride === 0 || x === "") return;
      text += stride === 1 ? ` + ${cast(x)}` : ` + ${cast(x)} * ${this.#param(`s${i}.${a}`, stride, type)}`;
    });
    return text;
  }
  /** The element of view i (loads first, then stores), as u32. */
  address(i: number, index: IndexText): string {
    const view = i < this.#k.loads.length ? this.#k.loads[i] : this.#k.stores[i - this.#k.loads.length].view;
    const sum = this.#sum(i, view.offset, index, false);
    if (view.at === undefined) return sum;
    const key = `at${i}`;
    let at = this.#words.get(key);
    if (at === undefined) this.#words.set(key, (at = `u32(${this.shader.number(this.#k.uniforms[view.at.uniform], "i32")}) * ${this.shader.param(view.at.stride)}`));
    return `${sum} + ${at}`;
  }

  /**
   * Leaves at a point, or at four points: `lanes` gives the indices of each lane (one entry: a single point). `bind` names a
   * text; addresses that lanes share are written once.
   */
  leaves(lanes: readonly IndexText[], bind: (text: string) => string, width: Width, more: Omit<Leaves, "uniforms" | "load" | "affine"> = {}): Leaves {
    const { shader } = this, plan = this.#plan;
    const varies = (i: number): boolean => lanes.length > 1 && lanes[0].some((x, a) => x !== lanes[1][a] && this.#space.strides[i][a] !== 0);
    return {
      ...more, uniforms: this.#k.uniforms,
      load: (i, type) => {
        const view = this.#k.loads[i], own = typeOf(view.dtype), as = (text: string, w: Width): string => convert(shader, w, own, type, text);
        if (width === 1) return as(loadElement(shader, plan, view, bind(this.address(i, lanes[0]))), 1);
        if (!varies(i)) return `${wgslType(type, 4)}(${as(loadElement(shader, plan, view, bind(this.address(i, lanes[0]))), 1)})`;
        if (this.#vec[i]) return as(loadVec4(shader, plan, view, bind(this.address(i, lanes[0]))), 4);
        return as(`${wgslType(own, 4)}(${lanes.map((l) => loadElement(shader, plan, view, bind(this.address(i, l)))).join(", ")})`, 4);
      },
      affine: (i, type) => {
        const j = this.#k.loads.length + this.#k.stores.length + i, at = (l: IndexText): string => this.#sum(j, this.#k.affines[i].offset, l, true);
        const text = width === 1 ? at(lanes[0]) : !varies(j) ? `vec4<i32>(${at(lanes[0])})` : `vec4<i32>(${lanes.map(at).join(", ")})`;
        return type === "i32" ? `(${text})` : convert(shader, width, "i32", type, `(${text})`);
      },
    };
  }
  /** Statements that write store `s` at a point or four; `guards` (one a lane) keep lanes out. */
  store(s: number, lanes: readonly IndexText[], value: string, type: ExprType, width: Width, bind: (text: string) => string, guards?: readonly string[]): string[] {
    const { view } = this.#k.stores[s], i = this.#k.loads.length + s, { shader } = this, plan = this.#plan;
    const guarded = (k: number, text: string): string => (guards === undefined ? text : `if (${guards[k]}) { ${text} }`);
    if (width === 1) return [guarded(0, storeElement(shader, plan, view, bind(this.address(i, lanes[0])), value, type))];
    if (this.#vec[i]) return [guarded(0, storeVec4(shader, plan, view, bind(this.address(i, lanes[0])), value, type))];
    return lanes.map((l, k) => guarded(k, storeElement(shader, plan, view, bind(this.address(i, l)), `${value}[${k}]`, type)));
  }
}

/** Lines that split a linear index into the indices of axes, the last fastest; gives their names. */
export function decompose(linear: string, axes: readonly number[], size: (axis: number) => string, prefix: string): { lines: string[]; index: Map<number, string> } {
  const lines: string[] = [], index = new Map<number, string>();
  let rest = linear;
  [...axes].reverse().forEach((a, j) => {
    const name = `${prefix}${a}`;
    if (j === axes.length - 1) { index.set(a, rest); return; }
    lines.push(`let ${name} = ${rest} % ${size(a)};`, `let ${prefix}r${a} = ${rest} / ${size(a)};`);
    index.set(a, name);
    rest = `${prefix}r${a}`;
  });
  return { lines, index };
}
