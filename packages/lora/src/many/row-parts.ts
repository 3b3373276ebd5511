/** What the forms of a mixed batch share: the adapters of its rows, and numbers looked up row by row. */
import { gather, type Tensor, tensor } from "@adjoint/tensor";
import type { Application, Factors } from "../adapter.ts";
import { type AdapterTree, type Attachment, tensorsOf } from "../attachments.ts";
import { strengthened } from "./strength.ts";

/** One adapter among those of a mixed batch. */
export interface RowAdapter {
  readonly name: string;
  readonly attachments: readonly Attachment[];
  readonly tree: AdapterTree;
  readonly dropout: number;
  readonly strength: () => Tensor | null;
}

/** One adapter's attachment on a module, with its number in the batch's index (the base is 0). */
export interface RowPart {
  readonly slot: number;
  readonly attachment: Attachment;
  readonly adapter: RowAdapter;
}

/** How low-rank products are done: all factors side by side with foreign columns at zero, or each row with its own copy. */
export type RowForm = "masked" | "gathered";

/** One use of a module by a mixed batch. */
export interface RowUse extends Omit<Application, "key" | "dropout"> {
  /** slot of each entry of x's leading axis, i32 */
  readonly index: Tensor;
  /** 0 for each entry, NaN for one whose slot there is not */
  readonly lost: Tensor;
  /** number of slots, the base included */
  readonly slots: number;
  /** chosen by sizes when left out */
  readonly form?: RowForm;
}

/** y where the parts' methods act on their rows; other rows keep y. */
export type Mixer = (parts: readonly RowPart[], use: RowUse) => Tensor;

/** A tensor over the leading axis as a factor of x: [n] to [n, 1, ..., 1]. */
export const along = (perRow: Tensor, rank: number): Tensor => perRow.reshape([perRow.size, ...new Array<number>(rank - 1).fill(1)]);
/** What errors of an index that the host knows say. */
export const words = { op: "rows", fix: "0 is the base, k the k-th of `among`; set.index(names) makes it" } as const;
/** 0 for each row, and NaN where the index names no slot. What the host knows is refused, in compiled steps too; what only a device knows must not pass for the base or for another adapter. */
export function lostRows(index: Tensor, slots: number): Tensor {
  const zero = gather(tensor(new Array<number>(slots).fill(0), { shape: [slots, 1] }), index, words).reshape(index.shape), lost = tensor([NaN]);
  return index.lt(0).where(lost, index.gt(slots - 1).where(lost, zero));
}
const like = (t: Tensor, { dtype }: Tensor): Tensor => (t.dtype === dtype ? t : t.cast(dtype));
/** The same beside a tensor over the leading axis, such as x or y. */
export const lostBeside = ({ lost }: RowUse, x: Tensor): Tensor => along(like(lost, x), x.rank);
/** y for rows that no part changes. */
export const untouched = (use: RowUse): Tensor => use.y.add(lostBeside(use, use.y));
/** An attachment's tensors under its adapter's factor. */
export const partTensors = ({ attachment, adapter }: RowPart): Factors => strengthened(tensorsOf(attachment), adapter.strength());

/** A number for each slot, looked up for each row: [n]. */
export function perRow(values: ReadonlyMap<number, number>, otherwise: number, { index, slots }: RowUse, dtype: "f32" | "f64" | "i32"): Tensor {
  const table = Array.from({ length: slots }, (_, slot) => values.get(slot) ?? otherwise);
  return gather(tensor(table, { shape: [slots, 1], dtype }), index, words).reshape(index.shape);
}
