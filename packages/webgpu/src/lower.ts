/** From the kernels of a plan to programs: one entry a kernel shape. */
import { DeviceError, type Kernel, type PlanSpec } from "@adjoint/tensor";
import { composites } from "./composites/index.ts";
import { lowerCols } from "./cols.ts";
import { lowerContract } from "./contract.ts";
import { lowerGather } from "./gather.ts";
import { lowerMap } from "./map.ts";
import { lowerRows } from "./rows.ts";
import { lowerScatterAdd } from "./scatter.ts";
import type { Program, Target } from "./program.ts";

export function lower(kernel: Kernel, plan: PlanSpec, target: Target): Program {
  switch (kernel.kind) {
    case "map": return lowerMap(kernel, plan, target);
    case "rows": return lowerRows(kernel, plan, target);
    case "cols": return lowerCols(kernel, plan, target);
    case "contract": return lowerContract(kernel, plan, target);
    case "gather": return lowerGather(kernel, plan, target);
    case "scatterAdd": return lowerScatterAdd(kernel, plan, target);
    case "composite": {
      const own = composites.get(kernel.name);
      if (own === undefined) throw new DeviceError(`webgpu: no kernel for ${kernel.name}`, { key: kernel.name });
      return own(kernel, plan, target);
    }
    default: return kernel satisfies never;
  }
}
