/**
 * Memory to values and back, for elements of any dtype: one at a time, or four neighbours.
 *
 * A buffer is an array of one cell type in a dispatch; the functions here take whatever cell it has been bound with, so a
 * kernel that writes binds its results first (`bindStores`). Elements below 32 bits share words: four neighbours are
 * written as whole words by one invocation; single ones by atomics on their own bits, which gives the same bits in any order.
 */
import { bytesOf, type DType, DTypeError, type ExprType, type PlanSpec, type StoreTo, type View } from "@adjoint/tensor";
import { intrinsic, namesOf, type Width } from "./intrinsics.ts";
import { convert, wgslType } from "./printer.ts";
import type { Cell, Shader } from "./shader.ts";

/** The type that an element has inside formulas. */
export const typeOf = (dtype: DType): ExprType => (dtype === "u32" ? "u32" : dtype === "bool" ? "bool" : dtype === "i32" || dtype === "i8" || dtype === "u8" ? "i32" : "float");

/** Refuses dtypes that this backend cannot hold. */
export function checkDType(dtype: DType, what: string): void {
  if (dtype === "f64") throw new DTypeError(`${what}: f64 exists on the reference backend only`, { value: "f64", fix: "cast to f32, or use the reference backend: setDevice(reference())" });
}

const vectors: Partial<Record<DType, Cell>> = { f32: "vec4f", i32: "vec4i", u32: "vec4u" };

/** The cell that suits accesses of one element, or of four. */
function cellFor(shader: Shader, dtype: DType, width: Width, written: boolean): Cell {
  checkDType(dtype, "webgpu");
  switch (dtype) {
    case "f32": return width === 4 ? "vec4f" : "f32";
    case "i32": return width === 4 ? "vec4i" : "i32";
    case "u32": return width === 4 ? "vec4u" : "u32";
    case "f16": if (width === 1 && shader.target.f16) return "f16"; break;
    default:
  }
  if (width === 4) return bytesOf(dtype) === 2 ? "vec2u" : "u32";
  return written ? "atomic<u32>" : "u32";
}

function bind(shader: Shader, buffer: number, dtype: DType, width: Width, written = false): { name: string; cell: Cell } {
  const cell = shader.cell(buffer) ?? cellFor(shader, dtype, width, written);
  if (cell === "f16" || cell === "vec4h") shader.enable("f16");
  return { name: shader.bind(buffer, cell), cell };
}

/** Binds what a kernel reads: buffers of which four neighbours are read at once first, so that each is bound once. */
export function bindLoads(shader: Shader, views: readonly View[], vec: (i: number) => boolean): void {
  views.forEach((view, i) => { if (vec(i)) bind(shader, view.buffer, view.dtype, 4); });
  views.forEach((view, i) => { if (!vec(i)) bind(shader, view.buffer, view.dtype, 1); });
}

/**
 * Binds what a kernel writes, before anything is printed: whole words where `vec(i)` says that store i writes four
 * neighbours, atomics where single elements below 32 bits are written.
 */
export function bindStores(shader: Shader, stores: readonly StoreTo[], vec: (i: number) => boolean): void {
  const widths = new Map<number, Width>();
  stores.forEach(({ view }, i) => { if (!vec(i) || !widths.has(view.buffer)) widths.set(view.buffer, vec(i) ? 4 : 1); });
  for (const { view } of stores) bind(shader, view.buffer, view.dtype, widths.get(view.buffer) ?? 1, true);
}

/** Word `w` of a buffer, as u32. */
function wordAt(name: string, cell: Cell, w: string): string {
  switch (cell) {
    case "u32": return `${name}[${w}]`;
    case "f32": case "i32": return `bitcast<u32>(${name}[${w}])`;
    case "atomic<u32>": return `atomicLoad(&${name}[${w}])`;
    case "vec4u": return `${name}[(${w}) >> 2u][(${w}) & 3u]`;
    case "vec4f": case "vec4i": return `bitcast<u32>(${name}[(${w}) >> 2u][(${w}) & 3u])`;
    case "vec2u": return `${name}[(${w}) >> 1u][(${w}) & 1u]`;
    case "vec2f": return `bitcast<u32>(${name}[(${w}) >> 1u][(${w}) & 1u])`;
    default: throw new DTypeError(`webgpu: words of ${cell}`, { value: cell });
  }
}
/** Element `i` of a buffer whose cells are elements or vectors of them; undefined where they are not. */
function direct(name: string, cell: Cell, dtype: DType, i: string): string | undefined {
  const own: Partial<Record<DType, readonly [Cell, Cell]>> = { f32: ["f32", "vec4f"], i32: ["i32", "vec4i"], u32: ["u32", "vec4u"], f16: ["f16", "vec4h"] };
  const cells = own[dtype];
  return cell === cells?.[0] ? `${name}[${i}]` : cell === cells?.[1] ? `${name}[(${i}) >> 2u][(${i}) & 3u]` : cell === "vec2f" && dtype === "f32" ? `${name}[(${i}) >> 1u][(${i}) & 1u]` : undefined;
}

/** The bits of element `i` in the low part of a u32, below 32 bits. */
function bitsAt(name: string, cell: Cell, dtype: DType): string {
  return bytesOf(dtype) === 2
    ? `(${wordAt(name, cell, "i >> 1u")} >> ((i & 1u) << 4u)) & 0xffffu`
    : `(${wordAt(name, cell, "i >> 2u")} >> ((i & 3u) << 3u)) & 0xffu`;
}
/** Bits to the value that they mean; f16 one by one. */
function decode(dtype: DType, width: Width, bits: string): string {
  const n = namesOf(width);
  switch (dtype) {
    case "f16": return `unpack2x16float(${bits}).x`;
    case "bf16": return `bitcast<${n.f}>((${bits}) << ${n.u}(16u))`;
    case "bool": return `((${bits}) != ${n.u}(0u))`;
    case "u8": return `bitcast<${n.i}>(${bits})`;
    case "i8": return `((bitcast<${n.i}>(${bits}) << ${n.u}(24u)) >> ${n.u}(24u))`;
    case "f32": return `bitcast<${n.f}>(${bits})`;
    case "i32": return `bitcast<${n.i}>(${bits})`;
    default: return bits;
  }
}

/** The value of one element, of the type `typeOf(view.dtype)`; `index` is a u32 in elements from the buffer's start. */
export function loadElement(shader: Shader, _plan: PlanSpec, view: View, index: string): string {
  const { dtype } = view, { name, cell } = bind(shader, view.buffer, dtype, 1), plain = direct(name, cell, dtype, index);
  if (plain !== undefined) return dtype === "f16" ? `f32(${plain})` : plain;
  const fn = `load_${name}_${dtype}`, result = wgslType(typeOf(dtype), 1);
  shader.use(fn, `fn ${fn}(i: u32) -> ${result} { return ${decode(dtype, 1, bytesOf(dtype) === 4 ? wordAt(name, cell, "i") : bitsAt(name, cell, dtype))}; }`);
  return `${fn}(${index})`;
}

/** Four neighbours, as vec4 of the type `typeOf(view.dtype)`; `index` is a multiple of 4. */
export function loadVec4(shader: Shader, _plan: PlanSpec, view: View, index: string): string {
  const { dtype } = view, { name, cell } = bind(shader, view.buffer, dtype, 4);
  if (cell === vectors[dtype]) return `${name}[(${index}) >> 2u]`;
  if (cell === "vec4h" && dtype === "f16") return `vec4<f32>(${name}[(${index}) >> 2u])`;
  const fn = `load4_${name}_${dtype}`, result = wgslType(typeOf(dtype), 4);
  let body: string;
  if (direct(name, cell, dtype, "i") !== undefined) {
    const at = (k: number): string => { const e = direct(name, cell, dtype, `i + ${k}u`) ?? ""; return dtype === "f16" ? `f32(${e})` : e; };
    body = `return ${result}(${[0, 1, 2, 3].map(at).join(", ")});`;
  } else if (bytesOf(dtype) === 4) {
    body = `return ${decode(dtype, 4, `vec4<u32>(${[0, 1, 2, 3].map((k) => wordAt(name, cell, `i + ${k}u`)).join(", ")})`)};`;
  } else if (bytesOf(dtype) === 2) {
    const words = cell === "vec2u" ? `${name}[i >> 2u]` : `vec2<u32>(${wordAt(name, cell, "i >> 1u")}, ${wordAt(name, cell, "(i >> 1u) + 1u")})`;
    body = `let w = ${words}; return ${dtype === "f16" ? "vec4<f32>(unpack2x16float(w.x), unpack2x16float(w.y))" : "bitcast<vec4<f32>>(vec4<u32>(w.x << 16u, w.x & 0xffff0000u, w.y << 16u, w.y & 0xffff0000u))"};`;
  } else {
    body = `let w = ${wordAt(name, cell, "i >> 2u")}; return ${decode(dtype, 4, "(vec4<u32>(w) >> vec4<u32>(0u, 8u, 16u, 24u)) & vec4<u32>(0xffu)")};`;
  }
  shader.use(fn, `fn ${fn}(i: u32) -> ${result} { ${body} }`);
  return `${fn}(${index})`;
}

/** A value as what memory holds: f32, i32 or u32 themselves, else bits in the low part of a u32. */
function encode(shader: Shader, dtype: DType, width: Width, type: ExprType, value: string): string {
  const n = namesOf(width), to = (t: ExprType): string => convert(shader, width, type, t, value);
  switch (dtype) {
    case "f32": return to("float");
    case "i32": return to("i32");
    case "u32": return to("u32");
    case "f16": return `${intrinsic(shader, "bitsF16", width)}(${to("float")})`;
    case "bf16": return `${intrinsic(shader, "bitsBf16", width)}(${to("float")})`;
    case "bool": return `select(${n.u}(0u), ${n.u}(1u), ${to("bool")})`;
    case "u8": return type === "float" ? `${n.u}(clamp(${to("i32")}, ${n.i}(0), ${n.i}(255)))` : `(${to("u32")} & ${n.u}(0xffu))`;
    case "i8": return type === "float" ? `(bitcast<${n.u}>(clamp(${to("i32")}, ${n.i}(-128), ${n.i}(127))) & ${n.u}(0xffu))` : `(${to("u32")} & ${n.u}(0xffu))`;
    case "f64": checkDType(dtype, "webgpu: store"); return value;
    default: return dtype satisfies never;
  }
}

/** The statement that writes one element. */
export function storeElement(shader: Shader, _plan: PlanSpec, view: View, index: string, value: string, type: ExprType): string {
  const { dtype } = view, { name, cell } = bind(shader, view.buffer, dtype, 1, true), bits = encode(shader, dtype, 1, type, value);
  const plain = direct(name, cell, dtype, index);
  if (plain !== undefined) return dtype === "f16" ? `${plain} = bitcast<vec2<f16>>(${bits}).x;` : `${plain} = ${bits};`;
  if (cell !== "atomic<u32>") throw new DTypeError(`webgpu: single ${dtype} elements of a buffer bound as ${cell}`, { value: dtype });
  const fn = `store_${name}_${dtype}`;
  if (bytesOf(dtype) === 4) shader.use(fn, `fn ${fn}(i: u32, x: u32) { atomicStore(&${name}[i], x); }`);
  else {
    const [shift, low, step, mask] = bytesOf(dtype) === 2 ? [1, 1, 4, "0xffffu"] : [2, 3, 3, "0xffu"];
    shader.use(fn, `fn ${fn}(i: u32, x: u32) { let s = (i & ${low}u) << ${step}u; atomicAnd(&${name}[i >> ${shift}u], ~(${mask} << s)); atomicOr(&${name}[i >> ${shift}u], x << s); }`);
  }
  return `${fn}(${index}, ${dtype === "f32" || dtype === "i32" ? `bitcast<u32>(${bits})` : bits});`;
}

/** The statement that writes four neighbours; `index` is a multiple of 4. */
export function storeVec4(shader: Shader, _plan: PlanSpec, view: View, index: string, value: string, type: ExprType): string {
  const { dtype } = view, { name, cell } = bind(shader, view.buffer, dtype, 4, true), x = encode(shader, dtype, 4, type, value);
  if (cell === vectors[dtype]) return `${name}[(${index}) >> 2u] = ${x};`;
  const fn = `store4_${name}_${dtype}`, put = (w: string, v: string): string => (cell === "atomic<u32>" ? `atomicStore(&${name}[${w}], ${v});` : `${name}[${w}] = ${v};`);
  let argument: string, body: string;
  if (bytesOf(dtype) === 4) {
    argument = wgslType(typeOf(dtype), 4);
    body = [0, 1, 2, 3].map((k) => {
      const place = direct(name, cell, dtype, `i + ${k}u`);
      return place === undefined ? put(`i + ${k}u`, `bitcast<u32>(x[${k}])`) : `${place} = x[${k}];`;
    }).join(" ");
  } else if (bytesOf(dtype) === 2) {
    argument = "vec4<u32>";
    const pair = (a: string, b: string): string => `x.${a} | (x.${b} << 16u)`;
    body = cell === "vec2u" ? `${name}[i >> 2u] = vec2<u32>(${pair("x", "y")}, ${pair("z", "w")});`
      : cell === "vec4h" ? `${name}[i >> 2u] = bitcast<vec4<f16>>(vec2<u32>(${pair("x", "y")}, ${pair("z", "w")}));`
      : cell === "f16" ? [0, 1, 2, 3].map((k) => `${name}[i + ${k}u] = bitcast<vec2<f16>>(x[${k}]).x;`).join(" ")
      : `${put("i >> 1u", pair("x", "y"))} ${put("(i >> 1u) + 1u", pair("z", "w"))}`;
  } else {
    argument = "vec4<u32>";
    body = put("i >> 2u", "x.x | (x.y << 8u) | (x.z << 16u) | (x.w << 24u)");
  }
  shader.use(fn, `fn ${fn}(i: u32, x: ${argument}) { ${body} }`);
  return `${fn}(${index}, ${x});`;
}
