/** `adjoint explain adapter NAME` and `adjoint explain format NAME`: what an adapter computes and holds, what a code stands for and loses. */
import { aboutAdapter, adapterAbouts, lora } from "@adjoint/lora";
import { Linear } from "@adjoint/nn";
import { bytesOfQuantized, dequantize, type Format, type FormatName, formatOf, formats, quantize } from "@adjoint/quant";
import { hostNormal, hostUniform, zeroStore } from "@adjoint/tensor";
import type { Answer } from "../command.ts";
import { foldedTable, indent, lines } from "./explain-text.ts";

/** Tensors of an adapter of rank 8 beside one layer of 256 inputs and 512 outputs, as PEFT's file names them. */
function tensorsOf(options: Parameters<typeof lora>[1]): { readonly name: string; readonly shape: readonly number[] }[] {
  const tuned = lora({ q_proj: new Linear(zeroStore([512, 256], "f32", "q_proj.weight")) }, { r: 8, targetModules: ["q_proj"], ...options });
  return [...tuned.tensors()].map(([name, t]) => ({ name: name.replace("base_model.model.", ""), shape: t.shape }));
}
const sizeOf = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);

/** One adapter, or all of them with a line each. */
export function explainAdapter(name: string | null): Answer {
  if (name === null) {
    const part = (kind: string): string => foldedTable(adapterAbouts.filter((a) => a.kind === kind).map((a) => [a.name, `${a.title}: ${a.use}`]));
    return { text: `adapters; adjoint explain adapter NAME tells the rest\n\n${part("adapter")}\nfirst numbers (init_lora_weights)\n\n${part("first numbers")}`, json: { adapters: adapterAbouts.map(({ name: n, title, kind, use }) => ({ name: n, title, kind, use })) } };
  }
  const { title, kind, equations, use, recipe, code, source, options, name: own } = aboutAdapter(name), tensors = options === null ? [] : tensorsOf(options), trained = tensors.reduce((n, t) => n + sizeOf(t.shape), 0);
  const held = tensors.length === 0 ? "" : `\nbeside one layer of 256 inputs and 512 outputs, at rank 8: ${trained.toLocaleString("en-US")} numbers train\n${foldedTable(tensors.map((t) => [t.name, `${t.shape.join(" x ")}`]))}`;
  return {
    text: `${own}: ${title}${kind === "adapter" ? "" : ", first numbers of LoRA's A and B"}\n\nx: the layer's input, W: its frozen weight, s: the scale, g: the gradient of y\n${indent(equations)}${held}\n${lines([["recipe", recipe], ["code", code], ["use", use], ["source", source]])}`,
    json: { name: own, title, kind, equations, tensors, trained, recipe, code, use, source },
  };
}

/** What each format is for, and where it is from. */
const notes: Readonly<Partial<Record<FormatName, readonly [use: string, source: string]>>> = {
  nf4: ["frozen bases of QLoRA: codes at the quantiles of a normal distribution, where weights are", "Dettmers et al. 2023 (arXiv 2305.14314); bitsandbytes"],
  fp4: ["as nf4, with the steps of a tiny floating-point number", "bitsandbytes"],
  int4: ["even steps: best for data without tails", "absolute maximum / 7"],
  int8: ["8-bit bases; a row is a block for LLM.int8", "Dettmers et al. 2022 (arXiv 2208.07339); bitsandbytes"],
  dynamic8: ["optimizer states with a sign (first moments)", "Dettmers et al. 2022 (arXiv 2110.02861); bitsandbytes"],
  udynamic8: ["optimizer states without a sign (second moments)", "Dettmers et al. 2022 (arXiv 2110.02861); bitsandbytes"],
  q8_0: ["GGUF files that lose next to nothing", "ggml"], q4_0: ["GGUF files, the oldest of four bits", "ggml"],
  mxfp4: ["scales that are powers of two: hardware of 2024 and later", "OCP Microscaling Formats 1.0"],
};
const scaleBytes: Readonly<Record<Format["scale"], number>> = { f32: 4, f16: 2, e8m0: 1 };

/** ‖x - dq(q(x))‖ / ‖x‖ of a matrix of these numbers, and the bits that a weight takes. */
function lossOf(name: FormatName, x: Float32Array, doubleQuant: boolean): { readonly error: number; readonly bits: number } {
  const q = quantize(x, [64, x.length / 64], { format: name, doubleQuant }), back = dequantize(q), norm = (f: (i: number) => number): number => Math.sqrt(x.reduce((s, _, i) => s + f(i) ** 2, 0));
  return { error: norm((i) => x[i] - back[i]) / norm((i) => x[i]), bits: (8 * bytesOfQuantized(q)) / x.length };
}
function tableOf({ table }: Format): string {
  const shown = (v: number): string => (Number.isInteger(v) ? String(v) : v.toFixed(4)), all = Array.from(table, shown);
  if (all.length > 16) return indent([`${all.slice(0, 6).join("  ")}  ...  ${all.slice(-6).join("  ")}`]);
  const wide = Math.max(...all.map((t) => t.length));
  return indent([all.slice(0, 8), all.slice(8)].map((row) => row.map((t) => t.padStart(wide)).join("  ")));
}

/** One format, or all of them with a line each. */
export function explainFormat(name: string | null): Answer {
  const all = Object.values(formats);
  if (name === null) {
    return { text: `formats of quantized weights; adjoint explain format NAME tells the rest\n\n${foldedTable(all.map((f) => [f.name, `${f.bits} bits a code, ${f.scale} a ${f.block} weights${f.encodes ? "" : ", read only"}${notes[f.name] === undefined ? "" : `: ${notes[f.name]![0]}`}`]))}`, json: { formats: all.map(({ name: n, bits, block, scale, encodes }) => ({ name: n, bits, block, scale, encodes })) } };
  }
  const format = formatOf(name, "format"), { bits, block, scale, encodes, blocks } = format, [use, source] = notes[format.name] ?? ["files of llama.cpp", "ggml"];
  const data = { "normal": Float32Array.from(hostNormal(1, "explain", [64, 256]).data, Number), "uniform": Float32Array.from(hostUniform(1, "explain", [64, 256], { low: -1, high: 1 }).data, Number) };
  const loses = (numbers: Float32Array): Float32Array => (format.name === "udynamic8" ? numbers.map(Math.abs) : numbers);
  const measured = !encodes ? [] : Object.entries(data).flatMap(([of, x]) => [false, ...(scale === "f32" ? [true] : [])].map((doubleQuant) => ({ numbers: of, doubleQuant, ...lossOf(format.name, loses(x), doubleQuant) })));
  const errors = measured.map((m) => [`${m.numbers} numbers${m.doubleQuant ? ", double quantization" : ""}`, `${(100 * m.error).toFixed(2)} % of their size, ${m.bits.toFixed(2)} bits a weight`] as [string, string]);
  return {
    text: `${format.name}: ${bits} bits a code, a scale (${scale}) a ${block} weights: ${(bits + (8 * scaleBytes[scale]) / block).toFixed(3)} bits a weight in memory\n\nx = table[code] · scale(block)${encodes ? "" : ", and what else its files hold; it is read and not made"}\n\ntable\n${tableOf(format)}${errors.length === 0 ? "" : `\nwhat 16,384 numbers lose\n${foldedTable(errors)}`}\n${lines([["blocks", blocks === null ? "any" : blocks.join(", ")], ["use", use], ["source", source]])}`,
    json: { name: format.name, bits, block, blocks, scale, encodes, table: [...format.table], errors: measured, use, source },
  };
}
