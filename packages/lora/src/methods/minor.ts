/**
 * MiCA: B is frozen and A trains, so that an update stays in a few directions of the output that the layer uses least.
 *
 * y = W x + s B A x with the trained A zero at first and B the left singular vectors of W's smallest values (initial/mica.ts). Both are in the file.
 * Minor Component Adaptation (arXiv 2604.01694).
 */
import { type AdditiveMethod, mergedByAdding } from "../adapter.ts";
import { type Layer, zerosOf } from "./layer.ts";

/** The method on a kind of layer. */
export const minorOn = ({ shapes, part, delta }: Layer): AdditiveMethod => ({
  name: "mica",
  shapes: (site, config) => ({ A: shapes(site, config).A }),
  fixed: (site, config) => ({ B: shapes(site, config).B }),
  init: (site, config) => { const { A, B } = shapes(site, config); return { A: zerosOf(A), B: zerosOf(B) }; },
  forward: (p, site, use) => use.y.add(part(p, site, use)),
  delta,
  merged: mergedByAdding(delta),
});
