/** A kernel's formulas as one list of distinct nodes, arguments before users, with what each depends on. */
import type { Expr, ExprType, Intrinsic, Leaf } from "@adjoint/tensor";

export interface Node {
  readonly id: number;
  readonly fn: Intrinsic | Leaf;
  readonly args: readonly number[];
  readonly type: ExprType;
  readonly leaf: number;
  /** type of the first argument (comparisons and casts) */
  readonly from: ExprType;
}

/** Where a value changes: never within a call, once a line, at each element. */
export type Level = 0 | 1 | 2;

/** Rough instruction counts, to choose unrolling and spilling. */
const costs: Partial<Record<string, number>> = { exp: 22, log: 30, tanh: 28, sin: 50, cos: 50, erf: 50, pow: 150, roundF16: 20, roundBf16: 12, div: 3, sqrt: 3, rsqrt: 5 };

export class Dag {
  readonly nodes: Node[] = [];
  readonly #byKey = new Map<string, number>();
  readonly #byExpr = new Map<Expr, number>();

  /** The node of a formula; equal formulas are one node. */
  add(e: Expr): number {
    const known = this.#byExpr.get(e);
    if (known !== undefined) return known;
    const args = e.args.map((a) => this.add(a));
    const key = `${e.fn}:${e.type}:${Object.is(e.leaf, -0) ? "-0" : e.leaf}:${args.join()}`;
    let id = this.#byKey.get(key);
    if (id === undefined) {
      id = this.nodes.length;
      this.nodes.push({ id, fn: e.fn, args, type: e.type, leaf: e.leaf, from: e.args[0]?.type ?? e.type });
      this.#byKey.set(key, id);
    }
    this.#byExpr.set(e, id);
    return id;
  }

  /** Level of each node, given those of the leaves that vary. */
  levels(leafLevel: (n: Node) => Level): Level[] {
    const out: Level[] = [];
    for (const n of this.nodes) {
      let level: Level = n.args.length === 0 && n.fn !== "const" ? leafLevel(n) : 0;
      for (const a of n.args) if (out[a] > level) level = out[a];
      out.push(level);
    }
    return out;
  }

  /** Nodes reachable from the roots without entering a stopped node. */
  reach(roots: readonly number[], stop: (id: number) => boolean = () => false): Set<number> {
    const seen = new Set<number>();
    const go = (id: number): void => {
      if (seen.has(id)) return;
      seen.add(id);
      if (!stop(id)) this.nodes[id].args.forEach(go);
    };
    roots.forEach(go);
    return seen;
  }

  /** How often each of the given nodes is an argument of another of them, or a root. */
  uses(nodes: ReadonlySet<number>, roots: readonly number[], stop: (id: number) => boolean): Map<number, number> {
    const out = new Map<number, number>();
    const bump = (id: number): void => { out.set(id, (out.get(id) ?? 0) + 1); };
    roots.forEach(bump);
    for (const id of nodes) if (!stop(id)) this.nodes[id].args.forEach(bump);
    return out;
  }

  cost(nodes: ReadonlySet<number>): number {
    let sum = 0;
    for (const id of nodes) sum += costs[this.nodes[id].fn] ?? 1;
    return sum;
  }

  /** The statistics that a node needs, directly or not. */
  stats(root: number): Set<number> {
    const out = new Set<number>();
    for (const id of this.reach([root])) if (this.nodes[id].fn === "stat") out.add(this.nodes[id].leaf);
    return out;
  }
}
