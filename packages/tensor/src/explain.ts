/** Seeing inside: the graph, the kernels, their source and the memory plan of the very plan that would run. */
import { receive } from "./answer.ts";
import type { ContractKernel, Factor, Kernel, PlanSpec, RunResult } from "./backend.ts";
import { bytesOf, decode, type TypedArray } from "./dtype.ts";
import { type Bound, bind, execute, getDevice, internal, leafValues, planOf, scalarValues } from "./engine.ts";
import { DeviceError } from "./errors.ts";
import { showExpr } from "./expr.ts";
import { dependencies, postorder } from "./graph.ts";
import { accesses } from "./plan.ts";
import { show, sizeOf } from "./shape.ts";
import { Tensor, copyOp, hasNumbers, leafOp, record, scalarOp } from "./tensor.ts";

export interface Explanation {
  /** every node: number, op, inputs, shape, dtype, name */
  readonly graph: string;
  /** every kernel: shape, formula, bytes moved, operations */
  readonly kernels: string;
  /** buffers with their places in the arena */
  readonly memory: string;
  /** the device's source of every kernel, where it can show one */
  readonly source: string;
  readonly plan: PlanSpec;
  toString(): string;
}

/** Explains how these values would be computed now. @example console.log(String(explain(loss))) */
export function explain(...values: Tensor[]): Explanation {
  const { spec, device } = planOf(values);
  const graph = showGraph(values, device.composites), kernels = showKernels(spec), memory = showMemory(spec);
  const source = device.source ? spec.kernels.map((k, i) => `#${i} ${k.label}\n${device.source!(k, spec)}`).join("\n\n") : `${device.name} prints no source`;
  return { graph, kernels, memory, source, plan: spec, toString: () => `${graph}\n\n${kernels}\n\n${memory}` };
}

function showGraph(values: readonly Tensor[], composites: ReadonlySet<string>): string {
  const order = postorder(values, composites), number = new Map(order.map((t, i) => [t, i]));
  const lines = order.map((t, i) => {
    const from = dependencies(t, composites).map((x) => `%${number.get(x)}`).join(", ");
    const given = t.op === scalarOp && t.value ? String(decode(t.dtype, t.value.data[0])) : from;
    return folded(`  %${i} = ${t.op.name}(${given})${showAttrs(t.attrs)}  ${t.dtype} ${show(t.shape)}${t.name ? `  ${t.name}` : ""}`, 6);
  });
  return `graph: ${order.length} nodes\n${lines.join("\n")}`;
}

/** Axes, limits and the like: what chooses structure. */
function showAttrs(attrs: unknown): string {
  if (typeof attrs !== "object" || attrs === null) return "";
  const plain = (v: unknown): boolean => typeof v === "number" || typeof v === "string" || typeof v === "boolean" || (Array.isArray(v) && v.every((e) => typeof e === "number"));
  return Object.entries(attrs).filter(([, v]) => plain(v)).map(([key, v]) => `  ${key}=${Array.isArray(v) ? `[${v.join(", ")}]` : String(v)}`).join("");
}
/** Text of at most 100 columns a line, broken at spaces, its further lines moved in. */
function folded(text: string, indent: number): string {
  const lines: string[] = [];
  let rest = text;
  while (rest.length > WIDTH) {
    const at = rest.lastIndexOf(" ", WIDTH);
    if (at <= indent) break;
    lines.push(rest.slice(0, at).trimEnd());
    rest = " ".repeat(indent) + rest.slice(at).trimStart();
  }
  return [...lines, rest].join("\n");
}
const WIDTH = 100;

/** k of every product that a contract kernel adds up. */
const depths = (k: ContractKernel): number[] => [k, ...(k.more ?? [])].map((p) => p.k);
/** How the operands of a product are stored, where that is not as numbers. */
const coded = (k: ContractKernel): string => [k, ...(k.more ?? [])].flatMap((p) => ([["a", p.a], ["b", p.b]] as [string, Factor][]).filter(([, f]) => f.decode).map(([name, { decode }]) => ` ${name} in ${decode!.bits} bits`)).join("");
/** Floating-point operations of a kernel: formulas by node count, matmuls as 2·m·n·k. */
export function operationsOf(k: Kernel): number {
  if (k.kind === "contract") return 2 * sizeOf(k.shape) * depths(k).reduce((a, b) => a + b);
  if (k.kind === "gather" || k.kind === "scatterAdd") return k.rows * k.cols;
  if (k.kind === "composite") return 0;
  const formulas = [...k.stores.map((s) => s.value), ...(k.kind === "rows" ? k.stats.map((s) => s.value) : k.kind === "cols" ? [k.value] : [])];
  const seen = new Set<unknown>();
  let n = 0;
  const walk = (e: (typeof formulas)[number]): void => { if (seen.has(e)) return; seen.add(e); if (e.args.length) n++; e.args.forEach(walk); };
  formulas.forEach(walk);
  return n * sizeOf(k.shape);
}
/** Bytes that a kernel reads and writes at least once. */
export function bytesMoved(k: Kernel, spec: PlanSpec): number {
  const { reads, writes } = accesses(k);
  return [...new Set([...reads, ...writes].map((v) => v.buffer))].reduce((n, b) => n + spec.buffers[b].length * bytesOf(spec.buffers[b].dtype), 0);
}
/** A line for each reduction of a kernel (r0, r1, ...) and for each of its results. */
function formulasOf(k: Kernel): string[] {
  if (!("stores" in k)) return [];
  const reductions = k.kind === "rows" ? k.stats : k.kind === "cols" ? [k] : [];
  return [...reductions.map(({ op, value }, i) => `r${i} = ${op} of ${showExpr(value)}`), ...k.stores.map((s) => showExpr(s.value))];
}
function showKernels(spec: PlanSpec): string {
  const lines = spec.kernels.map((k, i) => {
    const { reads, writes } = accesses(k);
    const what = k.kind === "contract" ? `${show(k.shape)} k=${depths(k).join("+")}${coded(k)}` : "shape" in k ? show(k.shape) : `[${k.kind === "composite" ? "" : `${k.rows}, ${k.cols}`}]`;
    const to = [...new Set(writes.map((v) => `b${v.buffer}`))].join(" "), from = [...new Set(reads.map((v) => `b${v.buffer}`))].join(" ");
    const formula = formulasOf(k).map((line) => `\n       ${line.length > 93 ? `${line.slice(0, 90)}...` : line}`).join("");
    return `${folded(`  #${i} ${k.kind} ${what}  ${from} -> ${to}  ${human(bytesMoved(k, spec))}, ${(operationsOf(k) / 1e6).toFixed(2)} MFLOP  ${k.label}`, 7)}${formula}`;
  });
  const bytes = spec.kernels.reduce((n, k) => n + bytesMoved(k, spec), 0), flops = spec.kernels.reduce((n, k) => n + operationsOf(k), 0);
  return `kernels: ${spec.kernels.length}, ${human(bytes)} moved, ${(flops / 1e9).toFixed(3)} GFLOP\n${lines.join("\n")}`;
}
function showMemory(spec: PlanSpec): string {
  const lines = spec.buffers.map((b, i) => `  b${i} ${b.kind} ${b.dtype}[${b.length}]${b.kind === "store" ? `  store ${b.position}` : `  at ${b.offset}`}`);
  const sum = spec.buffers.reduce((n, b) => n + (b.kind === "store" ? 0 : b.length * bytesOf(b.dtype)), 0);
  return `memory: arena ${human(spec.arenaBytes)} for ${human(sum)} of step values\n${lines.join("\n")}`;
}
const human = (n: number): string => (n < 1e4 ? `${n} B` : n < 1e7 ? `${(n / 1e3).toFixed(1)} KB` : `${(n / 1e6).toFixed(1)} MB`);

/** The first op of a recipe that produces NaN. */
export interface FirstNaN { readonly op: string; readonly shape: readonly number[]; readonly position: number; readonly name: string }

/** The first op of a recipe that produces NaN (or null): every node is computed and looked at, inputs first. Asynchronous devices want `findNaN`. */
export function explainNaN(t: Tensor): FirstNaN | null {
  const { name, sync } = getDevice();
  if (!sync) throw new DeviceError(`${name} can only be read asynchronously`, { op: "explainNaN", fix: "await findNaN(t)" });
  const { nodes, bound, result } = computeAll(t);
  for (let i = 0; i < nodes.length; i++) {
    const found = look(nodes[i], result.readSync!(bound.positions[i]));
    if (found) return found;
  }
  return null;
}
/** Like `explainNaN`, on every device. @example console.log(await findNaN(loss)); */
export async function findNaN(t: Tensor): Promise<FirstNaN | null> {
  if (getDevice().sync) return explainNaN(t);
  const { nodes, bound, result } = computeAll(t);
  // all of them are taken before the first wait: what is not taken belongs to the device's next run
  const copies = nodes.map((x) => new Tensor(leafOp, [], null, x.shape, x.dtype));
  receive(bound.plan.device, result, copies, bound.positions);
  for (let i = 0; i < nodes.length; i++) {
    const found = look(nodes[i], (await copies[i].host()).data);
    if (found) return found;
  }
  return null;
}
/** Every node of a recipe, unfused, as one plan. */
function computeAll(t: Tensor): { readonly nodes: readonly Tensor[]; readonly bound: Bound; readonly result: RunResult } {
  const nodes = internal(() => postorder([t], new Set()).filter((x) => !hasNumbers(x) && x.op.kind !== "read" && x.op.kind !== "scalar" && x.op.kind !== "composite" && !x.alias));
  const bound = bind(internal(() => nodes.map((x) => record(copyOp, [x], null, x.shape, x.dtype))), []);
  return { nodes, bound, result: execute(bound, leafValues(bound), scalarValues(bound.scalars)) };
}
function look({ op, shape, name }: Tensor, data: TypedArray): FirstNaN | null {
  const position = data.findIndex((v) => Number.isNaN(v));
  return position < 0 ? null : { op: op.name, shape, position, name };
}
