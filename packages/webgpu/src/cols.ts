/** Reductions over other axes than the last. */
import { DeviceError, type ColsKernel } from "@adjoint/tensor";
import type { Lower } from "./program.ts";

export const lowerCols: Lower<ColsKernel> = (kernel) => { throw new DeviceError(`webgpu: ${kernel.kind} is not here yet`); };
