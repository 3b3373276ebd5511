/** The initialisations by the names that PEFT gives them. */
import { corda } from "./corda.ts";
import { eva } from "./eva.ts";
import type { Initialisation } from "./initial.ts";
import { loftqInit } from "./loftq.ts";
import { loraGa } from "./lora-ga.ts";
import { mica } from "./mica.ts";
import { type InitLoraWeights, pissaIterations } from "./names.ts";
import { olora } from "./olora.ts";
import { orthogonal } from "./orthogonal.ts";
import { pissa } from "./pissa.ts";

export const initialisations: Readonly<Record<string, Initialisation>> = { pissa, olora, orthogonal, loftq: loftqInit, eva, corda, lora_ga: loraGa, mica };

/** The initialisation of a config; null where A and B are drawn without looking at the model. */
export const initialisationOf = (rule: InitLoraWeights): Initialisation | null =>
  (typeof rule === "string" ? (initialisations[pissaIterations(rule) === null ? rule : "pissa"] ?? null) : null);
