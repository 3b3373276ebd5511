/** FLoRA where each example has its own vectors: y_i = mean_j a_ij ∘ (W (b_ij ∘ x_i)) + bias, one product of the shared frozen weight for all. */
import { concat, gather, pad, type Tensor } from "@adjoint/tensor";
import { product } from "../methods/flora.ts";
import { along, type Mixer, partTensors, perRow, untouched } from "./row-parts.ts";

/** The adapter's output in its rows, y in the others. Ranks may differ: a component beyond an adapter's own has a = 0 and so adds nothing. */
export const floraRows: Mixer = (parts, use) => {
  const { x, y, index, frozen } = use, { site } = parts[0].attachment, batch = index.size, r = Math.max(...parts.map((p) => p.attachment.site.r));
  const factors = parts.map(partTensors), local = perRow(new Map(parts.map((p, i) => [p.slot, i])), 0, use, "i32");
  const own = (role: "a" | "b"): Tensor => {
    const padded = factors.map((p) => { const t = role === "a" ? p["a"].mul(1 / p["a"].shape[0]) : p["b"]; return pad(t, 0, 0, r - t.shape[0]).reshape([1, r * t.shape[1]]); });
    return gather(concat(padded), local).reshape([batch, r, 1, padded[0].shape[1] / r]);
  };
  const rows = x.reshape([batch, 1, x.size / (batch * site.inFeatures), site.inFeatures]);
  const sum = product(rows.mul(own("b")), frozen, site).mul(own("a")).sum([1]).reshape(y.shape), { bias } = frozen;
  const z = bias === undefined ? sum : sum.add(bias.dtype === sum.dtype ? bias : bias.cast(sum.dtype));
  const here = parts.map((p) => index.eq(p.slot).cast("f32")).reduce((a, b) => a.add(b));
  return along(here, y.rank).gt(0.5).where(z.dtype === y.dtype ? z : z.cast(y.dtype), untouched(use));
};
