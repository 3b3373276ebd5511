/** The scale put into B for good, for servers that compute alpha / r, or nothing at all. */
import { ConfigError, convertArray, type HostArray } from "@adjoint/tensor";
import type { Role } from "../adapter.ts";
import { keyOf } from "../attachments.ts";
import { loraConfig } from "../config/config.ts";
import { attachLora, planLora } from "../lora.ts";
import type { Tuned } from "../tuned.ts";

const scaledRoles: readonly Role[] = ["B", "biasB"];
/** methods whose update is s times what is linear in these roles */
const foldable: readonly string[] = ["lora", "dora", "lora with bias"];

/**
 * A new adapter with s B in place of B, alpha = r and so s = 1 in every module; the same outputs (bit for bit where s is a power of 2).
 * `bakeScale` writes s as alpha and leaves the numbers. The adapter that it came from stays as it is.
 * @throws ConfigError for a method whose update is not linear in B
 * @example await (await foldScale(tuned)).save("out/serving");
 */
export async function foldScale<M extends object>(tuned: Tuned<M>): Promise<Tuned<M>> {
  const { loraConfig: old } = tuned, initial = new Map<string, HostArray>();
  for (const a of tuned.attachments) {
    if (!foldable.includes(a.method.name)) throw new ConfigError(`foldScale: ${a.method.name} on ${a.site.path} has no B to take the scale`, { op: "foldScale", key: a.site.path, value: a.method.name, fix: "fold LoRA, rsLoRA and DoRA; AdaLoRA and VeRA as await plainLora(tuned), which has scale 1 already" });
    for (const [role, factor] of Object.entries(a.factors)) {
      const { dtype, shape, data } = await factor.host(), numbers = convertArray(data, dtype, "f32");
      initial.set(keyOf(a, role), { dtype: "f32", shape, data: scaledRoles.includes(role) ? Float32Array.from(numbers, (v) => v * a.site.scale) : numbers });
    }
  }
  const config = loraConfig({ ...old, targetModules: tuned.targets.targetModules, scaling: "lora", useRslora: false, loraAlpha: old.r, alphaPattern: old.rankPattern }); // equal patterns: alpha = r everywhere
  return attachLora(tuned.base, config, planLora(tuned.base, config, null), (a) => Object.fromEntries(Object.keys(a.method.shapes(a.site, config)).map((role) => [role, held(initial, keyOf(a, role))])), false);
}
function held(initial: ReadonlyMap<string, HostArray>, key: string): HostArray {
  const array = initial.get(key);
  if (array === undefined) throw new ConfigError(`foldScale: the adapter has no ${key}`, { op: "foldScale", key });
  return array;
}
