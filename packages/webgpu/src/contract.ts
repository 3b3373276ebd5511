/** Matrix products. */
import { DeviceError, type ContractKernel } from "@adjoint/tensor";
import type { Lower } from "./program.ts";

export const lowerContract: Lower<ContractKernel> = (kernel) => { throw new DeviceError(`webgpu: ${kernel.kind} is not here yet`); };
