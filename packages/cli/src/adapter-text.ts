/** An adapter in words. */
import type { LoraConfig } from "@adjoint/lora";

/** The rank; of AdaLoRA from the first to the mean of the last. */
export const rankText = ({ r, adalora }: Pick<LoraConfig, "r" | "adalora">): string => (adalora === null ? `r ${r}` : `r ${adalora.initR} to ${adalora.targetR}`);
