/** Which adapter method a config asks for. */
import type { AdapterMethod } from "./adapter.ts";
import type { LoraConfig } from "./config.ts";
import { lowRank } from "./low-rank.ts";

/** The method of the adapted modules; what trains beside it (biases, whole modules) has methods of its own. */
export function methodOf(_config: LoraConfig): AdapterMethod {
  return lowRank;
}
