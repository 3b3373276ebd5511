/** @adjoint/quant: quantized tensors, their formats, codecs and files. */
export { blockOf, formatOf, formats, isFormatName } from "./format.ts";
export type { Format, FormatName } from "./format.ts";
export { dynamicMap } from "./tables.ts";
export { midpoints, nearest } from "./nearest.ts";
export type { Nearest } from "./nearest.ts";
export { searchOf } from "./encode.ts";
export { blocksOf, bytesOfQuantized, checkQuantized, scaleValues } from "./quantized.ts";
export type { Quantized, Scales } from "./quantized.ts";
export { quantize } from "./quantize.ts";
export type { QuantizeOptions } from "./quantize.ts";
export { codeAt, dequantize } from "./dequantize.ts";
export { doubleQuantize } from "./double.ts";
