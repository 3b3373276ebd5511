/** The readable text of a kernel for `explain`: its nest, operands and formulas, one line a distinct value. */
import type { Factor, Kernel } from "@adjoint/tensor";
import { Dag } from "./dag.ts";
import type { Recipe } from "./recipe.ts";

/** How an operand is stored. */
const typeOf = (x: Factor): string => (x.decode ? `codes of ${x.decode.bits} bits in blocks of ${x.decode.block}` : x.dtype);
const hide = new Set(["const"]);

export function describe(k: Kernel, r: Recipe): string {
  const lines: string[] = [];
  const sig = r.layout.signature;
  const bytes = r.emit("0", 0).reduce((n, f) => n + f.size, 0);
  const shape = "shape" in k ? `[${k.shape.join(", ")}]` : k.kind === "composite" ? "" : `[${k.rows}, ${k.cols}]`;
  lines.push(`${k.kind} ${k.label} ${shape}${k.kind === "contract" ? ` k=${k.k} ${typeOf(k.a)} x ${typeOf(k.b)}` : ""}  (${bytes} bytes of wasm)`);
  sig.views.forEach((w, i) => lines.push(`  x${i}: ${w.dtype} ${w.inner === 0 ? "repeated" : w.inner === 1 ? "contiguous" : "strided"}${w.at === undefined ? "" : ` from u${w.at}`}`));
  if (!("loads" in k)) return lines.join("\n");
  const dag = new Dag();
  const roots: { text: string; node: number }[] = [];
  if (k.kind === "rows") k.stats.forEach((s, i) => roots.push({ text: `r${i} = ${s.op}`, node: dag.add(s.value) }));
  if (k.kind === "cols") roots.push({ text: `r0 = ${k.op}`, node: dag.add(k.value) });
  k.stores.forEach((s, i) => roots.push({ text: `store x${k.loads.length + i} =`, node: dag.add(s.value) }));
  const name = (id: number): string => {
    const n = dag.nodes[id];
    switch (n.fn) {
      case "const": return `${n.leaf}`;
      case "load": return `x${n.leaf}`;
      case "uniform": return `u${n.leaf}`;
      case "affine": return `i${n.leaf}`;
      case "stat": return `r${n.leaf}`;
      case "acc": return "acc";
      default: return `v${id}`;
    }
  };
  for (const n of dag.nodes) if (n.args.length > 0 && !hide.has(n.fn)) lines.push(`  v${n.id}: ${n.type} = ${n.fn}(${n.args.map(name).join(", ")})`);
  for (const root of roots) lines.push(`  ${root.text} ${name(root.node)}`);
  return lines.join("\n");
}
