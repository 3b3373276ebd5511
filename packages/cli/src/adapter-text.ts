/** What an adapter is called, and its rank in words. */
import type { LoraConfig } from "@adjoint/lora";

export const adapterTitle = (c: Pick<LoraConfig, "adalora" | "vera" | "useDora" | "useRslora">): string => (c.adalora !== null ? "AdaLoRA" : c.vera !== null ? "VeRA" : c.useDora ? (c.useRslora ? "rsDoRA" : "DoRA") : c.useRslora ? "rsLoRA" : "LoRA");

/** The rank; of AdaLoRA from the first to the mean of the last. */
export const rankText = ({ r, adalora }: Pick<LoraConfig, "r" | "adalora">): string => (adalora === null ? `r ${r}` : `r ${adalora.initR} to ${adalora.targetR}`);
