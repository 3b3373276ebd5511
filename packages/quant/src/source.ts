/** What this package asks of a file of tensors: @adjoint/io's open safetensors files and model folders are such. */
import type { DType, HostArray } from "@adjoint/tensor";

export interface TensorSource {
  /** path or name, for errors */
  readonly label: string;
  readonly entries: ReadonlyMap<string, { readonly dtype: DType; readonly shape: readonly number[] }>;
  read(name: string): Promise<HostArray>;
  /** reads bytes [from, from + into.length) of a tensor as the file has them; where it is missing, whole tensors are read */
  readPart?(name: string, from: number, into: Uint8Array): Promise<void>;
}
