/** VeRA's options. */
import type { Refuse } from "./kinds.ts";

/** Options of VeRA; names are PEFT's in camelCase. Rank (256 where none is given) and dropout are `r` and `loraDropout`. */
export interface VeraConfig {
  /** A and B follow from it, by this project's own stream of numbers and not by torch's: files carry the projections */
  readonly projectionPrngKey: number;
  /** A and B are in the file; false is refused */
  readonly saveProjection: boolean;
  /** initial value of d */
  readonly dInitial: number;
}

export const veraDefaults: VeraConfig = { projectionPrngKey: 0, saveProjection: true, dInitial: 0.1 };

/** Options that can be; throws by `refuse`. */
export function checkVera(c: VeraConfig, refuse: Refuse): VeraConfig {
  for (const [key, value] of Object.entries(c)) if (!Object.hasOwn(veraDefaults, key)) refuse(`vera.${key}`, value, "is not an option", `options: ${Object.keys(veraDefaults).join(", ")}`);
  if (!(Number.isSafeInteger(c.projectionPrngKey) && c.projectionPrngKey >= 0)) refuse("vera.projectionPrngKey", c.projectionPrngKey, "is not valid", "use an integer of at least 0");
  if (typeof c.saveProjection !== "boolean") refuse("vera.saveProjection", c.saveProjection, "is not valid", "use true");
  if (!c.saveProjection) refuse("vera.saveProjection", false, "leaves out the projections, which torch's generator would have to draw again", "save it in PEFT with save_projection=True");
  if (!(typeof c.dInitial === "number" && Number.isFinite(c.dInitial))) refuse("vera.dInitial", c.dInitial, "is not valid", "use a number such as 0.1");
  return c;
}
