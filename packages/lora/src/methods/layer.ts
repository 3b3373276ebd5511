/** What LoRA's variants must know of a kind of layer: the shapes of its factors, how they act on inputs, and which way its weight lies. */
import { dropout, type HostArray, hostArray, isHalf, type Shape, sizeOf, type Tensor } from "@adjoint/tensor";
import { type AdditiveMethod, type Application, type Factors, mergedByAdding, type Site } from "../adapter.ts";
import type { LoraConfig } from "../config/config.ts";

/** The two factors of a low-rank update. */
export type Pair<T> = Readonly<Record<"A" | "B", T>>;

/** A kind of layer: LoRA, DoRA and the rest are written once over this. */
export interface Layer {
  /** of the factors, as files have them. @throws ConfigError for a site that such a layer cannot have */
  shapes(site: Site, config: LoraConfig): Pair<Shape>;
  /** PEFT's initial factors: ΔW = 0 unless initLoraWeights is false */
  init(site: Site, config: LoraConfig, seed: number): Pair<HostArray>;
  /** s B A x */
  part(p: Factors, site: Site, use: Application): Tensor;
  /** s B A in the weight's layout. @throws ConfigError where there is none */
  delta(p: Factors, site: Site): Tensor;
  /** what an initialisation took out of the layer, s B₀ A₀ x; left out where it took nothing */
  lost?(p: Factors, site: Site, use: Application): Tensor;
  /** the factors of `delta`, where they are not A and B alone */
  factors?(p: Factors): Pair<Tensor>;
  /** W x without the bias, on the dropped input: as the layer itself computes it */
  product(site: Site, use: Application): Tensor;
  /** the weight as a matrix [out, in] */
  rows(weight: Tensor, site: Site): Tensor;
  /** shape in which numbers [out] multiply the output, and in which they multiply the weight */
  perOutput(site: Site): { readonly output: Shape; readonly weight: Shape };
}

/** x as the adapter sees it: without the elements that training drops. */
export const dropped = ({ x, key, dropout: p }: Pick<Application, "x" | "key" | "dropout">): Tensor => (key === null ? x : dropout(x, p, key));
/** In f32 where it is held in half precision. */
export const widened = (x: Tensor): Tensor => (isHalf(x.dtype) ? x.cast("f32") : x);
export const zerosOf = (shape: Shape): HostArray => ({ dtype: "f32", shape, data: hostArray("f32", sizeOf(shape)) });

/** LoRA on a kind of layer: y + s B A x, merged W + s B A. */
export const loraOn = ({ shapes, init, part, delta }: Layer): AdditiveMethod => ({
  name: "lora",
  shapes: (site, config) => ({ ...shapes(site, config) }),
  init,
  forward: (p, site, use) => use.y.add(part(p, site, use)),
  delta,
  merged: mergedByAdding(delta),
});
