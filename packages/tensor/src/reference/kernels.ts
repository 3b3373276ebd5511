/** The kernel shapes as plain loops: the meaning that every fast backend must reproduce. */
import type { ColsKernel, ContractKernel, GatherKernel, Kernel, MapKernel, ReduceOp, RowsKernel, ScatterAddKernel, StoreTo, View } from "../backend.ts";
import { decode, encode, type TypedArray } from "../dtype.ts";
import { DeviceError } from "../errors.ts";
import { sizeOf } from "../shape.ts";
import { compile, startOf, store, type Frame, type Program } from "./program.ts";
import { addresses, BLOCK } from "./space.ts";

/** A kernel made ready: runs once over all its points. */
export type Runner = (frame: Frame) => void;

/** @throws DeviceError for composites: the reference has none, it runs their definitions */
export function runnerOf(kernel: Kernel): Runner {
  switch (kernel.kind) {
    case "map": return map(kernel);
    case "rows": return rows(kernel);
    case "cols": return cols(kernel);
    case "contract": return contract(kernel);
    case "gather": return gather(kernel);
    case "scatterAdd": return scatterAdd(kernel);
    case "composite": throw new DeviceError(`reference: no hand-written kernel for ${kernel.name}`, { op: kernel.name, fix: "schedule its definition" });
    default: return kernel satisfies never;
  }
}

const start: Record<ReduceOp, number> = { sum: 0, sum64: 0, max: -Infinity, min: Infinity };
const combine: Record<ReduceOp, (a: number, b: number) => number> = { sum: (a, b) => a + b, sum64: (a, b) => a + b, max: Math.max, min: Math.min };

/** Evaluates every formula of a block before it writes the first result, so a store may overwrite what the block read. */
function storeAll(program: Program, stores: readonly StoreTo[], shape: readonly number[], frame: Frame, first: number, n: number): void {
  if (stores.length === 0) return;
  program.evaluate(frame, first, n);
  stores.forEach((s, i) => { store(frame, shape, s.view, s.value, first, n, program.results[i]); });
}

function map(k: MapKernel): Runner {
  const points = sizeOf(k.shape), program = compile(k.stores.map((s) => s.value), k);
  return (frame) => {
    for (let p = 0; p < points; p += BLOCK) storeAll(program, k.stores, k.shape, frame, p, Math.min(BLOCK, points - p));
  };
}

function rows(k: RowsKernel): Runner {
  const axis = k.shape.length - k.rowAxes, length = sizeOf(k.shape.slice(axis)), count = sizeOf(k.shape.slice(0, axis));
  const statistics = k.stats.map((s) => ({ op: s.op, program: compile([s.value], k) }));
  const wide = k.stores.filter((s) => !s.perRow), narrow = k.stores.filter((s) => s.perRow);
  const each = compile(wide.map((s) => s.value), k), once = compile(narrow.map((s) => s.value), k);
  const users = [...statistics.map((s) => s.program), each, once];
  return (frame) => {
    for (let r = 0; r < count; r++) {
      const first = r * length;
      statistics.forEach(({ op, program }, i) => {
        const f = combine[op], [values] = program.results;
        let s = start[op];
        for (let j = 0; j < length; j += BLOCK) {
          const n = Math.min(BLOCK, length - j);
          program.evaluate(frame, first + j, n);
          if (op === "sum" || op === "sum64") for (let x = 0; x < n; x++) s += values[x]; else for (let x = 0; x < n; x++) s = f(s, values[x]);
        }
        for (const user of users) user.stats[i]?.fill(s);
      });
      once.evaluate(frame, first, 1);
      for (let j = 0; j < length; j += BLOCK) storeAll(each, wide, k.shape, frame, first + j, Math.min(BLOCK, length - j));
      narrow.forEach((s, i) => { store(frame, k.shape, s.view, s.value, first, 1, once.results[i]); });
    }
  };
}

function cols(k: ColsKernel): Runner {
  const outer = sizeOf(k.shape.slice(0, k.outerAxes)), inner = sizeOf(k.shape.slice(k.outerAxes + k.reducedAxes));
  const reduced = sizeOf(k.shape.slice(k.outerAxes, k.outerAxes + k.reducedAxes));
  const value = compile([k.value], k), program = compile(k.stores.map((s) => s.value), k);
  const sums = new Float64Array(inner), f = combine[k.op], [values] = value.results;
  return (frame) => {
    for (let o = 0; o < outer; o++) {
      const first = o * reduced * inner;
      sums.fill(start[k.op]);
      for (let p = 0; p < reduced * inner; p += BLOCK) {
        const n = Math.min(BLOCK, reduced * inner - p);
        value.evaluate(frame, first + p, n);
        for (let i = 0, j = p % inner; i < n; i++) { sums[j] = f(sums[j], values[i]); if (++j === inner) j = 0; }
      }
      for (let j = 0; j < inner; j += BLOCK) {
        const n = Math.min(BLOCK, inner - j);
        program.stats[0]?.set(sums.subarray(j, j + n));
        storeAll(program, k.stores, k.shape, frame, first + j, n);
      }
    }
  };
}

function contract(k: ContractKernel): Runner {
  const rank = k.shape.length, m = k.shape[rank - 2], n = k.shape[rank - 1], batchShape = k.shape.slice(0, -2), batch = sizeOf(batchShape);
  const program = compile(k.stores.map((s) => s.value), k);
  const products = [k, ...(k.more ?? [])].map((p) => ({ ...p, row: new Float64Array(p.k), table: new Float64Array(p.k * n) }));
  const sums = new Float64Array(n), at = new Int32Array(1);
  /** out[i, j] = the view's element at (batch, i, j), i < count, j < n */
  const unpack = (frame: Frame, view: View, which: number, row: number, count: number, width: number, out: Float64Array): void => {
    addresses(batchShape, view.strides, startOf(view, frame.uniforms), which, 1, at);
    const data = frame.memory[view.buffer], sr = view.strides[rank - 2], sc = view.strides[rank - 1];
    for (let i = 0; i < count; i++) for (let j = 0; j < width; j++) out[i * width + j] = decode(view.dtype, data[at[0] + (row + i) * sr + j * sc]);
  };
  return (frame) => {
    for (let z = 0; z < batch; z++) {
      for (const p of products) unpack(frame, p.b, z, 0, p.k, n, p.table);
      for (let i = 0; i < m; i++) {
        sums.fill(0);
        for (const { k: depth, a, row, table } of products) {
          unpack(frame, a, z, i, 1, depth, row);
          for (let x = 0; x < depth; x++) { const ax = row[x], from = x * n; for (let j = 0; j < n; j++) sums[j] += ax * table[from + j]; }
        }
        for (let j = 0; j < n; j += BLOCK) {
          const width = Math.min(BLOCK, n - j);
          program.acc.set(sums.subarray(j, j + width));
          storeAll(program, k.stores, k.shape, frame, (z * m + i) * n + j, width);
        }
      }
    }
  };
}

function gather({ table, ids, out, rows, cols, limit }: GatherKernel): Runner {
  return ({ memory, uniforms }) => {
    const from = memory[table.buffer], to = memory[out.buffer], index = memory[ids.buffer];
    const t = startOf(table, uniforms), i = startOf(ids, uniforms), o = startOf(out, uniforms);
    for (let r = 0; r < rows; r++) {
      const row = t + Math.min(limit - 1, Math.max(0, index[i + r])) * cols;
      for (let c = 0; c < cols; c++) to[o + r * cols + c] = table.dtype === out.dtype ? from[row + c] : encode(out.dtype, decode(table.dtype, from[row + c]));
    }
  };
}

function scatterAdd({ source, ids, out, rows, cols, limit }: ScatterAddKernel): Runner {
  return ({ memory, uniforms }) => {
    const from = memory[source.buffer], to: TypedArray = memory[out.buffer], index = memory[ids.buffer];
    const s = startOf(source, uniforms), i = startOf(ids, uniforms), o = startOf(out, uniforms), sums = new Float64Array(limit * cols);
    for (let r = 0; r < rows; r++) {
      const id = index[i + r];
      if (id >= 0 && id < limit) for (let c = 0; c < cols; c++) sums[id * cols + c] += decode(source.dtype, from[s + r * cols + c]);
    }
    for (let j = 0; j < sums.length; j++) to[o + j] = encode(out.dtype, sums[j]);
  };
}
