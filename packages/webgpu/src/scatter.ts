/** Sums of rows by id. */
import { DeviceError, type ScatterAddKernel } from "@adjoint/tensor";
import type { Lower } from "./program.ts";

export const lowerScatterAdd: Lower<ScatterAddKernel> = (kernel) => { throw new DeviceError(`webgpu: ${kernel.kind} is not here yet`); };
