/** `bias: "all" | "lora_only"`: a trained copy b' of a layer's bias, y + (b' - b). The base keeps b, so that leaving the adapter out gives the base. */
import { wide } from "@adjoint/nn";
import type { Tensor } from "@adjoint/tensor";
import type { AdapterMethod } from "../adapter.ts";
import { PREFIX } from "../files/peft-keys.ts";
import { zerosOf } from "../methods/layer.ts";

/** Along the channels of a convolution's output [N, C, ...spatial], else along the last axis. */
const alongOutput = (bias: Tensor, y: Tensor, kind: string): Tensor => (kind === "conv" ? bias.reshape([bias.size, ...y.shape.slice(2).map(() => 1)]) : bias);

/** A bias of this length; `adapted`: the layer has a low-rank adapter too, which gives the bias another name in PEFT's files. */
export const trainedBias = (length: number, adapted: boolean): AdapterMethod => ({
  name: "bias",
  shapes: () => ({ bias: [length] }),
  init: () => ({ bias: zerosOf([length]) }),
  key: ({ path }) => `${PREFIX}${path}.${adapted ? "base_layer.bias" : "bias"}`,
  start: (_p, _site, { bias }) => ({ bias: wide(bias) }),
  forward: ({ bias }, { kind }, { y, frozen }) => y.add(alongOutput(bias.sub(wide(frozen.bias)), y, kind)),
  merged: ({ bias }) => ({ bias }),
});
