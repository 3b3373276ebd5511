/** Element types of GGUF files: how many bytes a block of so many elements takes (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). */

/** How a type lies in a file. */
export interface GgufLayout {
  readonly id: number;
  /** elements of a block */
  readonly block: number;
  /** bytes of a block */
  readonly bytes: number;
}

/** A name of an element type. */
export type GgufType = "F32" | "F16" | "BF16" | "F64" | "I8" | "I16" | "I32" | "I64"
  | "Q4_0" | "Q4_1" | "Q5_0" | "Q5_1" | "Q8_0" | "Q2_K" | "Q3_K" | "Q4_K" | "Q5_K" | "Q6_K"
  | "Q8_K" | "IQ2_XXS" | "IQ2_XS" | "IQ3_XXS" | "IQ1_S" | "IQ4_NL" | "IQ3_S" | "IQ2_S" | "IQ4_XS" | "IQ1_M" | "TQ1_0" | "TQ2_0" | "MXFP4";

/** Every type that has a size, so that a file opens even where one of its types cannot be decoded. */
export const ggufTypes: Readonly<Record<GgufType, GgufLayout>> = {
  F32: { id: 0, block: 1, bytes: 4 }, F16: { id: 1, block: 1, bytes: 2 }, BF16: { id: 30, block: 1, bytes: 2 }, F64: { id: 28, block: 1, bytes: 8 },
  I8: { id: 24, block: 1, bytes: 1 }, I16: { id: 25, block: 1, bytes: 2 }, I32: { id: 26, block: 1, bytes: 4 }, I64: { id: 27, block: 1, bytes: 8 },
  Q4_0: { id: 2, block: 32, bytes: 18 }, Q4_1: { id: 3, block: 32, bytes: 20 }, Q5_0: { id: 6, block: 32, bytes: 22 }, Q5_1: { id: 7, block: 32, bytes: 24 },
  Q8_0: { id: 8, block: 32, bytes: 34 }, Q2_K: { id: 10, block: 256, bytes: 84 }, Q3_K: { id: 11, block: 256, bytes: 110 },
  Q4_K: { id: 12, block: 256, bytes: 144 }, Q5_K: { id: 13, block: 256, bytes: 176 }, Q6_K: { id: 14, block: 256, bytes: 210 }, Q8_K: { id: 15, block: 256, bytes: 292 },
  IQ2_XXS: { id: 16, block: 256, bytes: 66 }, IQ2_XS: { id: 17, block: 256, bytes: 74 }, IQ3_XXS: { id: 18, block: 256, bytes: 98 }, IQ1_S: { id: 19, block: 256, bytes: 50 },
  IQ4_NL: { id: 20, block: 32, bytes: 18 }, IQ3_S: { id: 21, block: 256, bytes: 110 }, IQ2_S: { id: 22, block: 256, bytes: 82 }, IQ4_XS: { id: 23, block: 256, bytes: 136 },
  IQ1_M: { id: 29, block: 256, bytes: 56 }, TQ1_0: { id: 34, block: 256, bytes: 54 }, TQ2_0: { id: 35, block: 256, bytes: 66 }, MXFP4: { id: 39, block: 32, bytes: 17 },
};

/** Whether a word is the name of an element type. */
export const isGgufType = (name: string): name is GgufType => Object.hasOwn(ggufTypes, name);

const byId: ReadonlyMap<number, GgufType> = new Map(Object.keys(ggufTypes).filter(isGgufType).map((name) => [ggufTypes[name].id, name] as const));
/** The type with this number, if there is one. */
export const ggufTypeOf = (id: number): GgufType | undefined => byId.get(id);

/** Bytes of a tensor; undefined where a row (the last axis) is no whole number of blocks. */
export function ggufBytes(type: GgufType, shape: readonly number[]): number | undefined {
  const { block, bytes } = ggufTypes[type], row = shape.at(-1) ?? 1;
  return row % block === 0 ? (shape.reduce((n, d) => n * d, 1) / block) * bytes : undefined;
}
