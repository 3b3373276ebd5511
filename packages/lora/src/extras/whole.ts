/** `modules_to_save`: a trained copy of all of a layer's parameters that computes in the layer's place. */
import { type Context, wide } from "@adjoint/nn";
import { ConfigError, type Shape, type Tensor } from "@adjoint/tensor";
import type { AdapterMethod, Factors } from "../adapter.ts";
import { PREFIX } from "../files/peft-keys.ts";
import { zerosOf } from "../methods/layer.ts";

interface Layer { readonly forward: (x: Tensor, context?: Context) => Tensor }
const isLayer = (x: object): x is Layer => "forward" in x && typeof x.forward === "function";

/** The layer with other tensors in its fields: the same class, hence the same computation. */
function withParameters(module: object, parameters: Factors): Layer {
  const fields = Object.getOwnPropertyDescriptors({ ...module, ...parameters });
  const copy: unknown = Object.create(Reflect.getPrototypeOf(module), fields);
  if (typeof copy === "object" && copy !== null && isLayer(copy)) return copy;
  throw new ConfigError("a module to save has no forward", { key: "modules_to_save", fix: "name the layers inside it" });
}

const shapesOf = (shapes: Readonly<Record<string, Shape>>): Pick<AdapterMethod, "shapes" | "init"> => ({
  shapes: () => shapes,
  init: () => Object.fromEntries(Object.entries(shapes).map(([name, shape]) => [name, zerosOf(shape)])),
});

/** A copy of parameters of these shapes. `twice`: with bias = "all", PEFT writes a saved layer's bias under two more names. */
export const wholeCopy = (shapes: Readonly<Record<string, Shape>>, twice: boolean): AdapterMethod => ({
  name: "full",
  ...shapesOf(shapes),
  key: ({ path }, role) => `${PREFIX}${path}.${role}`,
  start: (_p, _site, frozen) => Object.fromEntries(Object.keys(shapes).map((name) => [name, wide(frozen[name])])),
  forward: (p, _site, { x, module }) => withParameters(module, p).forward(x),
  merged: (p) => p,
  ...(twice && shapes.bias !== undefined
    ? { echoes: ({ path }) => ({ [`${PREFIX}${path}.modules_to_save.bias`]: (p) => p.bias, [`${PREFIX}${path}.original_module.bias`]: (_, frozen) => frozen.bias }) } satisfies Pick<AdapterMethod, "echoes">
    : {}),
});

/** The copy of another layer's weight in a layer that shares that weight. */
export const tiedCopy: AdapterMethod = {
  name: "full-tied",
  ...shapesOf({}),
  forward: ({ weight }, _site, { x, module }) => withParameters(module, { weight }).forward(x),
  merged: ({ weight }) => ({ weight }),
  echoes: ({ path }) => ({ [`${PREFIX}${path}.weight`]: (p) => p.weight }),
};

/** A frozen weight that came with the adapter's files, in place of the layer's own. */
export const savedWeight: AdapterMethod = {
  name: "saved",
  ...shapesOf({}),
  forward: ({ weight }, _site, { x, module }) => withParameters(module, { weight }).forward(x),
  merged: ({ weight }) => ({ weight }),
};
