/** Pointwise kernels. */
import { DeviceError, type MapKernel } from "@adjoint/tensor";
import type { Lower } from "./program.ts";

export const lowerMap: Lower<MapKernel> = (kernel) => { throw new DeviceError(`webgpu: ${kernel.kind} is not here yet`); };
