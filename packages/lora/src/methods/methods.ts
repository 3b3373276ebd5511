/** Which adapter method a config asks for. */
import { ConfigError } from "@adjoint/tensor";
import type { AdapterMethod } from "../adapter.ts";
import { adalora } from "./adalora.ts";
import type { LoraConfig } from "../config/config.ts";
import { convolution, convolutional, ungrouped } from "./convolution.ts";
import { doraOn } from "./dora.ts";
import { keepsOrigin, needsNumbers } from "../initial/names.ts";
import { loraWithBiasOn } from "./lora-bias.ts";
import { dense, lowRank } from "./low-rank.ts";
import { doraOnWeight, loraOnWeight } from "./lstm.ts";
import { minorOn } from "./minor.ts";
import { originLayer, originOn } from "./origin.ts";
import type { ModuleInfo } from "../targets/targets.ts";
import { vera } from "./vera.ts";

/** Methods by what a config asks for, and by the kind of layer. */
const methods = {
  lora: { dense: lowRank, conv: convolution, lstm: loraOnWeight },
  dora: { dense: doraOn(dense), conv: doraOn(ungrouped), lstm: doraOnWeight },
  bias: { dense: loraWithBiasOn(dense), conv: loraWithBiasOn(convolutional), lstm: loraOnWeight },
  /** PiSSA, OLoRA, CorDA and LoRA-GA */
  origin: { dense: originOn(dense), conv: null, lstm: null },
  doraOrigin: { dense: { ...doraOn(originLayer(dense)), name: "dora from an origin" }, conv: null, lstm: null },
  /** MiCA */
  minor: { dense: minorOn(dense), conv: null, lstm: null },
} satisfies Readonly<Record<string, Readonly<Record<"dense" | "conv" | "lstm", AdapterMethod | null>>>>;

function askedFor({ initLoraWeights: rule, useDora, loraBias }: LoraConfig): keyof typeof methods {
  const special = keepsOrigin(rule) ? "origin" : rule === "mica" ? "minor" : null;
  if (special === null) return useDora ? "dora" : loraBias ? "bias" : "lora";
  if (useDora && special === "origin") return "doraOrigin";
  if (useDora) throw new ConfigError(`use_dora beside init_lora_weights = ${JSON.stringify(rule)} is not implemented`, { key: "use_dora", value: true, fix: "use DoRA with another initialisation, or this one with plain LoRA" });
  return special;
}

/** The method of an adapted module of this kind; what trains beside it (biases, whole modules) has methods of its own. @throws ConfigError for what does not go together */
export function methodOf(config: LoraConfig, kind: ModuleInfo["kind"]): AdapterMethod {
  const other = config.adalora !== null ? adalora : config.vera !== null ? vera : null;
  if (other !== null) {
    if (kind === "linear" || kind === "conv1d") return other;
    throw new ConfigError(`${other.name} is for linear layers, and this is ${kind === "embedding" ? "an embedding" : `of kind ${kind}`}`, { key: "target_modules", value: kind, fix: "narrow the names, or list it in exclude_modules" });
  }
  const on = kind === "conv" || kind === "lstm" ? kind : "dense", method = methods[askedFor(config)][on];
  if (method === null || (on !== "dense" && needsNumbers(config.initLoraWeights))) {
    throw new ConfigError(`init_lora_weights = ${JSON.stringify(config.initLoraWeights)} is not for ${kind === "conv" ? "convolutions" : "the weights of an LSTM"}`, { key: "init_lora_weights", value: config.initLoraWeights, fix: 'use true, false or "gaussian", or list these modules in exclude_modules' });
  }
  return method;
}
