/** What packers of a product agree on: the block of k, the rows of packed A, and how the elements of a matrix lie. */

export const KC: number = 256;
/** bytes between rows of packed A: a row of KC and a margin that breaks powers of two */
export const PACKED_A: number = (KC + 4) * 4;
/** How the elements of a matrix lie: neighbours along the long axis (n of B, m of A), along k, or neither. */
export type Order = "across" | "along" | "any";
export const orders: readonly Order[] = ["across", "along", "any"];
