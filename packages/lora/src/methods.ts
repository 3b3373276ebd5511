/** Which adapter method a config asks for. */
import type { AdapterMethod } from "./adapter.ts";
import type { LoraConfig } from "./config.ts";
import { doraOn } from "./dora.ts";
import { dense, lowRank } from "./low-rank.ts";
import type { ModuleInfo } from "./targets.ts";

/** DoRA on layers that are one product. */
export const dora: AdapterMethod = doraOn(dense);

/** The method of an adapted module of this kind; what trains beside it (biases, whole modules) has methods of its own. */
export function methodOf(config: LoraConfig, _kind: ModuleInfo["kind"]): AdapterMethod {
  return config.useDora ? dora : lowRank;
}
