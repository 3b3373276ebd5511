/** The scale s of an adapter y = W x + s B A x, as a value: LoRA alpha / r, rsLoRA alpha / sqrt(r), or any rule of the caller. */
import { ConfigError } from "@adjoint/tensor";

/** `lora`: alpha / r. `rslora`: alpha / sqrt(r), flat gradient norms over ranks (arXiv 2312.03732). A function: its result. */
export type Scaling = "lora" | "rslora" | ((alpha: number, r: number) => number);

/** s for one module; throws ConfigError unless it is a finite number other than 0. */
export function scaleOf(scaling: Scaling, alpha: number, r: number): number {
  const s = scaling === "lora" ? alpha / r : scaling === "rslora" ? alpha / Math.sqrt(r) : scaling(alpha, r);
  if (!Number.isFinite(s) || s === 0) {
    throw new ConfigError(`scaling gives ${s} for alpha ${alpha} and rank ${r}`, { key: "scaling", value: s, fix: "return a finite number other than 0" });
  }
  return s;
}

const short = (x: number): string => String(Number(x.toPrecision(4)));

/**
 * Warning for an alpha that looks multiplied by sqrt(r) already (recipes for plain LoRA do that) while rsLoRA multiplies once more;
 * null when there is nothing to say. Names both readings.
 */
export function lintScale(scaling: Scaling, alpha: number, r: number): string | null {
  if (scaling !== "rslora" || r < 64 || alpha < r) return null;
  const meant = alpha / Math.sqrt(r);
  return (
    `use_rslora with r ${r} and lora_alpha ${alpha} gives the scale ${short(scaleOf(scaling, alpha, r))}. ` +
    `If lora_alpha is meant for rsLoRA, keep it; if it was already multiplied by sqrt(r) for plain LoRA (scale ${short(alpha / r)}), ` +
    `set use_rslora to false, or lora_alpha to ${short(meant)}.`
  );
}
