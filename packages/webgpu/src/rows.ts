/** Row statistics and what follows from them. */
import { DeviceError, type RowsKernel } from "@adjoint/tensor";
import type { Lower } from "./program.ts";

export const lowerRows: Lower<RowsKernel> = (kernel) => { throw new DeviceError(`webgpu: ${kernel.kind} is not here yet`); };
