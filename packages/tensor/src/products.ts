/**
 * Sums of products: which matmuls are added up in the accumulator of one contract kernel.
 *
 * In y = x Wᵀ + (x Aᵀ) Bᵀ neither product is wanted by itself, so one kernel adds both and [rows, out] is written once.
 * Products belong together if they have one shape and everything between each of them and the sum that joins them is
 * an addition or a reshape with one user. Read as a rewriting of the graph, the last recorded product becomes the sum
 * and the others become zero; so nothing else has to know, whatever is fused with what.
 */
import type { GNode, Graph } from "./graph.ts";
import { add } from "./ops/pointwise.ts";
import { reshapeOp, stopOp } from "./ops/views.ts";
import { sameShape } from "./shape.ts";

export interface Sums {
  /** what the accumulator of a matmul adds up, in the order of recording: itself and those that became zero for it */
  of(t: GNode): readonly GNode[];
  /** nodes that nobody computes, because their value has moved into the accumulator of another one */
  readonly zeros: ReadonlySet<GNode>;
}

/** Groups the matmuls of a graph, at most `limit` to a kernel. */
export function sumsOfProducts(graph: Graph, roots: ReadonlySet<GNode>, limit: number): Sums {
  const groups = new Map<GNode, GNode[]>(), zeros = new Set<GNode>(), open = new Map<GNode, GNode[][]>();
  if (limit > 1) for (const t of graph.nodes) {
    const sum = t.op.kind === "contract" ? sumAbove(t, roots) : null;
    if (sum === null) continue;
    // neighbours in the order of recording go together: operands of no product wait long for the others
    const among = open.get(sum) ?? [], group = among.find((g) => g.length < limit && sameShape(g[0].shape, t.shape) && g[0].dtype === t.dtype);
    if (group) group.push(t); else among.push([t]);
    open.set(sum, among);
  }
  for (const among of open.values()) among.forEach(close);
  return { of: (t) => groups.get(t) ?? [t], zeros };

  function close(group: GNode[]): void {
    if (group.length === 1) return;
    groups.set(group[group.length - 1], group);
    for (const t of group.slice(0, -1)) {
      for (let v = t; ; v = v.users[0]) {
        zeros.add(v);
        if (!v.users[0].inputs.every((x) => zeros.has(x))) break;         // an addition that keeps its other operand
      }
    }
  }
}

/** The last addition that t reaches while it has one user; null if there is none. */
function sumAbove(t: GNode, roots: ReadonlySet<GNode>): GNode | null {
  let sum: GNode | null = null;
  for (let v = t; !roots.has(v) && v.users.length === 1; v = v.users[0]) {
    const user = v.users[0];
    if (user.op === add.op) {
      if (user.inputs[0] === user.inputs[1]) break;
      sum = user;
    } else if (user.op !== reshapeOp && user.op !== stopOp) break;
  }
  return sum;
}
