/** What an optimizer's memory costs. */
import { bytesOf } from "@adjoint/tensor";
import { type Optimizer, statesOf, trained } from "./optimizer.ts";

/** Bytes of all states of an optimizer for the stores of a tree, master weights included, parameters and gradients not. */
export const stateBytes = (optimizer: Optimizer, tree: unknown): number =>
  Object.values(statesOf(optimizer.transform, optimizer.policy, trained(tree).params)).flatMap((leaves) => Object.values(leaves)).reduce((sum, s) => sum + s.size * bytesOf(s.dtype), 0);
