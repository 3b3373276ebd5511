/** Reads what the harness wrote for all systems: sizes, initial weights and one batch. */
import { readFileSync } from "node:fs";
import { join } from "node:path";

/** { sizes, rate, decay, ids, labels, weights: Map(name -> { shape, data }) }; matrices lie as [out, in] unless `turn` asks for [in, out]. */
export function readDump(folder, { turn = false } = {}) {
  const { sizes, rate, decay, weights, ids, labels } = JSON.parse(readFileSync(join(folder, "dump.json"), "utf8"));
  const bytes = readFileSync(join(folder, "weights.f32"));
  const numbers = new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
  const read = weights.map(({ name, shape, offset }) => {
    const data = numbers.slice(offset, offset + shape.reduce((a, b) => a * b, 1));
    const table = name === "wte" || name === "wpe";
    return [name, turn && shape.length === 2 && !table ? { shape: [shape[1], shape[0]], data: transposed(data, shape) } : { shape, data }];
  });
  return { sizes, rate, decay, ids: Int32Array.from(ids), labels: Int32Array.from(labels), weights: new Map(read) };
}

function transposed(data, [rows, columns]) {
  const out = new Float32Array(data.length);
  for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) out[j * rows + i] = data[i * columns + j];
  return out;
}

/** Shapes [m, k, n] of the matrix products. */
export const products = { "gemm-1024": [1024, 1024, 1024], "lora-down": [512, 1024, 8], "lora-up": [512, 8, 1024] };

/** Numbers in [-1, 1) that every system gets alike. */
export function numbers(count, seed) {
  const out = new Float32Array(count);
  let x = seed >>> 0;
  for (let i = 0; i < count; i++) { x = (Math.imul(x, 1664525) + 1013904223) >>> 0; out[i] = (x >>> 8) / 2 ** 23 - 1; }
  return out;
}
