/**
 * LoRA and DoRA on the weights of an LSTM: every step of the recurrence uses W + s B A, which is formed once for all of them.
 *
 * A weight is named as the parameter it is, `lstm.weight_ih_l0` or `lstm.weight_hh_l1_reverse`, in targetModules and in the names of tensors. PEFT has no
 * adapter of that name (its target_parameters wraps the module, and names tensors after the nesting of the wrappers), so it does not read such files.
 */
import { ConfigError, type Tensor } from "@adjoint/tensor";
import type { AdapterMethod, Factors, Site } from "../adapter.ts";
import type { LoraConfig } from "../config/config.ts";
import { doraOn, rowLengths } from "./dora.ts";
import { type Layer, loraOn, widened } from "./layer.ts";
import { dense } from "./low-rank.ts";

/** The parameter of its module that a site is. */
const parameterOf = ({ path }: Site): string => path.slice(path.lastIndexOf(".") + 1);

function shapes(site: Site, config: LoraConfig): ReturnType<Layer["shapes"]> {
  const refuse = (problem: string, key: string, value: unknown, off: string): never => { throw new ConfigError(`${site.path} is the weight of an LSTM: ${problem}`, { key, value, fix: `set ${key} to ${off}, or list it in exclude_modules` }); };
  if (config.loraDropout > 0) refuse("what is added to it cannot drop inputs", "lora_dropout", config.loraDropout, "0");
  if (config.loraBias) refuse("it has no bias of its own that lora_bias could go with", "lora_bias", true, "false");
  return dense.shapes(site, config);
}
const layer: Layer = { ...dense, shapes };

/** A method that puts another matrix in place of the weight; attached and merged are the same formula. */
function onWeight({ name, shapes, init, merged }: Pick<AdapterMethod, "name" | "shapes" | "init" | "merged">): AdapterMethod {
  const put = (p: Factors, site: Site, weight: Tensor): Tensor => merged(p, site, { weight: widened(weight) }).weight;
  return {
    name, shapes, init,
    forward: (_, _site, { y }) => y,
    weight: (p, site, parameter, weight) => (parameter === parameterOf(site) ? put(p, site, weight) : weight),
    merged: (p, site, frozen) => ({ [parameterOf(site)]: put(p, site, frozen[parameterOf(site)]) }),
  };
}
const dora = doraOn(layer), lora = loraOn(layer);

/** W + s B A. */
export const loraOnWeight: AdapterMethod = onWeight(lora);
/** c ∘ (W + s B A), with c = m / n as in `doraOn`. */
export const doraOnWeight: AdapterMethod = {
  ...onWeight(dora),
  start: (p, site, frozen) => ({ magnitude: rowLengths(layer, lora.merged(p, site, { weight: widened(frozen[parameterOf(site)]) }).weight, site) }),
};
