/** Rows by id. */
import { DeviceError, type GatherKernel } from "@adjoint/tensor";
import type { Lower } from "./program.ts";

export const lowerGather: Lower<GatherKernel> = (kernel) => { throw new DeviceError(`webgpu: ${kernel.kind} is not here yet`); };
