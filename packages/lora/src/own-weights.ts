/** The base's own parameters, whatever is merged into them now: what files hold and are compared with. */
import { dequantize } from "@adjoint/quant";
import { ConfigError, type Tensor, tensor } from "@adjoint/tensor";
import type { Parameters } from "./adapter.ts";
import { called, mergedInto, stepsOf } from "./merged.ts";
import { parametersOf } from "./targets/modules.ts";

/**
 * A parameter of a base without what is merged into it: itself, or what the first merge that changed it has kept (codes decoded).
 * @throws ConfigError naming the adapter whose merge did not keep it
 */
export function ownParameter(base: unknown, parameter: Tensor, op: string, name: string): Tensor {
  for (const adapter of mergedInto(base)) {
    const held = stepsOf(adapter).replaced(parameter);
    if (held === null) continue;
    if (held === "not kept") {
      throw new ConfigError(`${op} needs the base's own ${name}: ${called(adapter)} is merged into it, and what was there before was not kept`, { op, key: name, fix: "do this on a base that was loaded again, or merge with { keep: true }" });
    }
    return "codes" in held ? tensor(dequantize(held), { shape: held.shape }) : tensor(held.data, { shape: held.shape, dtype: held.dtype });
  }
  return parameter;
}

/** All parameters of a module without what is merged into them; errors as `ownParameter`. */
export const ownParameters = (base: unknown, module: object, op: string, path: string): Parameters =>
  Object.fromEntries(Object.entries(parametersOf(module)).map(([name, p]) => [name, ownParameter(base, p, op, `${path}.${name}`)]));
