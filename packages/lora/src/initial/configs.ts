/** Options of single initialisations, with PEFT's names in camelCase and its defaults. */

/** EVA: `eva_config`. */
export interface EvaConfig {
  /** a module gets at most round(rho r) ranks; 1: every module keeps r */
  readonly rho: number;
  /** a direction has converged when its cosine with that of the batch before reaches tau */
  readonly tau: number;
  /** leave out tokens whose label is `labelMaskValue` */
  readonly useLabelMask: boolean;
  readonly labelMaskValue: number;
  /** divide each direction by the square root of its singular value */
  readonly whiten: boolean;
  /** change alpha with the rank, so that the scale s stays */
  readonly adjustScalingFactors: boolean;
}

/** CorDA: `corda_config`. */
export interface CordaConfig {
  readonly cacheFile: string | null;
  readonly covarianceFile: string | null;
  /** ipm: the directions that the inputs use most; kpm: those that they use least, so that what they use stays frozen */
  readonly cordaMethod: "ipm" | "kpm";
  readonly verbose: boolean;
  readonly useFloat16ForCovariance: boolean;
  readonly pruneTemporaryFields: boolean;
}

/** LoRA-GA: `lora_ga_config`. */
export interface LoraGaConfig {
  /** which singular directions of the gradient A and B take */
  readonly direction: "ArBr" | "A2rBr" | "ArB2r" | "random";
  readonly scale: "stable" | "weight_svd" | "gd_scale" | "unit";
  readonly stableGamma: number;
}

/** LoftQ: `loftq_config`. */
export interface LoftqConfig {
  readonly loftqBits: number;
  readonly loftqIter: number;
}

/** What the four are by default. */
export const partDefaults: { readonly evaConfig: EvaConfig; readonly cordaConfig: CordaConfig; readonly loraGaConfig: LoraGaConfig; readonly loftqConfig: LoftqConfig } = {
  evaConfig: { rho: 2, tau: 0.99, useLabelMask: true, labelMaskValue: -100, whiten: false, adjustScalingFactors: true },
  cordaConfig: { cacheFile: null, covarianceFile: null, cordaMethod: "ipm", verbose: false, useFloat16ForCovariance: false, pruneTemporaryFields: true },
  loraGaConfig: { direction: "ArB2r", scale: "stable", stableGamma: 16 },
  loftqConfig: { loftqBits: 4, loftqIter: 1 },
};
/** The keys of these options in a config. */
export type PartKey = keyof typeof partDefaults;
export const isPart = (key: string): key is PartKey => Object.hasOwn(partDefaults, key);

/** Which value of initLoraWeights reads which of them. */
export const partOf: Readonly<Record<string, PartKey>> = { eva: "evaConfig", corda: "cordaConfig", lora_ga: "loraGaConfig", loftq: "loftqConfig" };

interface Rule { readonly accepts: (v: unknown) => boolean; readonly wants: string }
const flag: Rule = { accepts: (v) => typeof v === "boolean", wants: "true or false" };
const file: Rule = { accepts: (v) => v === null || typeof v === "string", wants: "a file name or null" };
const among = (...values: readonly string[]): Rule => ({ accepts: (v) => typeof v === "string" && values.includes(v), wants: `one of ${values.join(", ")}` });
const whole = (low: number): Rule => ({ accepts: (v) => Number.isInteger(v) && Number(v) >= low, wants: `an integer from ${low} on` });

/** What a value of each must be. */
export const partRules: { readonly [P in PartKey]: Readonly<Record<string, Rule>> } = {
  evaConfig: {
    rho: { accepts: (v) => typeof v === "number" && v >= 1, wants: "a number from 1 on" },
    tau: { accepts: (v) => typeof v === "number" && v >= 0 && v <= 1, wants: "a number from 0 to 1" },
    useLabelMask: flag,
    labelMaskValue: { accepts: (v) => Number.isInteger(v), wants: "an integer" },
    whiten: flag,
    adjustScalingFactors: flag,
  },
  cordaConfig: { cacheFile: file, covarianceFile: file, cordaMethod: among("ipm", "kpm"), verbose: flag, useFloat16ForCovariance: flag, pruneTemporaryFields: flag },
  loraGaConfig: {
    direction: among("ArBr", "A2rBr", "ArB2r", "random"),
    scale: among("stable", "weight_svd", "gd_scale", "unit"),
    stableGamma: { accepts: (v) => typeof v === "number" && Number.isFinite(v) && v > 0, wants: "a number above 0" },
  },
  loftqConfig: { loftqBits: { accepts: (v) => v === 2 || v === 4 || v === 8, wants: "2, 4 or 8" }, loftqIter: whole(1) },
};
