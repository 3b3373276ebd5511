/**
 * LoRA where each row has its own factors, in two forms that give the same numbers.
 *
 * Masked: H = x [A_1; A_2; ...]ᵀ for all adapters, columns of other adapters set to 0, times [s_1 B_1, s_2 B_2, ...]ᵀ. Plain products over all
 * rows, ranks as they are, nothing copied per row; costs Σ r_a in place of r. Gathered: each row takes its own A and B out of a stack (padded
 * with zeros to one rank; a block of zeros stands for the base) and multiplies by them. In both, dB_a = Σ over rows of a of s gᵀ h and dA_a alike.
 */
import { concat, gather, pad, type Tensor, tensor, zeros } from "@adjoint/tensor";
import { along, lostBeside, type Mixer, partTensors, perRow, type RowPart, type RowUse } from "./row-parts.ts";

/**
 * The cheaper form for adapters of these ranks on one module. A step on wasm (r = 8, widths 256 and 512, rows of 1 to 256 positions): the same
 * time for one and for two adapters, gathered 1.1 times faster at four, and twice as fast and more at sixteen, because its time does not grow with their
 * number; the copies that it makes show nowhere. So masked, which pads nothing and copies nothing, as long as it does not more than double the products.
 */
export function chooseForm(ranks: readonly number[]): "masked" | "gathered" {
  return ranks.reduce((a, b) => a + b, 0) <= 2 * Math.max(...ranks) ? "masked" : "gathered";
}

const floats = (t: Tensor): "f32" | "f64" => (t.dtype === "f64" ? "f64" : "f32");

/** y + s_a B_a A_a x in the rows of adapter a. */
export const lowRankRows: Mixer = (parts, use) => {
  const form = use.form ?? chooseForm(parts.map((p) => p.attachment.site.r));
  return use.y.add(form === "masked" ? masked(parts, use) : gathered(parts, use));
};

function masked(parts: readonly RowPart[], use: RowUse): Tensor {
  const { x, y, index } = use;
  const factors = parts.map(partTensors), A = concat(factors.map((p) => p["A"])), B = concat(factors.map((p) => p["B"]), 1); // [R, in], [out, R]
  const columns = parts.flatMap(({ slot, attachment: { site } }) => new Array<number>(site.r).fill(slot));
  const scales = parts.flatMap(({ attachment: { site } }) => new Array<number>(site.r).fill(site.scale));
  const h = parts[0].attachment.site.kind === "embedding" ? gather(A.T, x) : x.matmul(A.T);
  const own = along(index, y.rank).eq(tensor(columns, { dtype: "i32" }));
  return own.where(h.mul(tensor(scales, { dtype: floats(h) })), lostBeside(use, h)).matmul(B.T);
}

function gathered(parts: readonly RowPart[], use: RowUse): Tensor {
  const { x, y, index } = use, n = parts.length, batch = index.size, { site } = parts[0].attachment, r = Math.max(...parts.map((p) => p.attachment.site.r));
  const factors = parts.map(partTensors), local = perRow(new Map(parts.map((p, i) => [p.slot, i])), n, use, "i32"); // n: the block of zeros
  const A = factors.map((p) => pad(p["A"], 0, 0, r - p["A"].shape[0])), B = factors.map((p) => pad(p["B"], 1, 0, r - p["B"].shape[1]));
  const stacked = (of: readonly Tensor[]): Tensor => concat([...of.map((t) => t.reshape([1, t.size])), zeros([1, of[0].size], floats(of[0]))]);
  const out = site.outFeatures, Bs = gather(stacked(B), local).reshape([batch, out, r]);
  const scale = perRow(new Map(parts.map((p) => [p.slot, p.attachment.site.scale])), 0, use, floats(A[0])).reshape([batch, 1, 1]), own = scale.add(lostBeside(use, scale));
  const h = site.kind === "embedding" ? ownRows(A, x, local) : x.reshape([batch, x.size / (batch * site.inFeatures), site.inFeatures]).matmul(gather(stacked(A), local).reshape([batch, r, site.inFeatures]).T);
  return h.mul(own).matmul(Bs.T).reshape(y.shape);
}

/** Rows of each example's own table of an embedding: [batch, T, r]. */
function ownRows(A: readonly Tensor[], ids: Tensor, local: Tensor): Tensor {
  const [r, rows] = A[0].shape, batch = local.size, table = concat([...A.map((a) => a.T), zeros([rows, r], floats(A[0]))]);
  const first = local.mul(tensor([rows], { dtype: "i32" })), at = ids.add(along(first, ids.rank));
  return gather(table, at).reshape([batch, ids.size / batch, r]);
}
