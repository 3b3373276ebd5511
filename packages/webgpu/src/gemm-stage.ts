/** Staging one operand's tile of a register-tiled product: global memory to registers, then to rows of k in workgroup memory. */
import type { Source } from "./gemm-operand.ts";

/**
 * The tile is BK rows of BX values (f32), stored as vec4s in `memory` with `row` vec4s from row to row. `lines` are printed in three
 * places: `setup` once, `fetch` once a step of k (registers keep what was read), `put` between the barriers.
 */
export interface Stage { readonly setup: readonly string[]; readonly fetch: (k0: string) => readonly string[]; readonly put: readonly string[] }

/** `start` the tile's first m or n, `extent` how many there are, `end` where k ends. */
export interface Tile { readonly BX: number; readonly BK: number; readonly threads: number; readonly memory: string; readonly row: number; readonly start: string; readonly extent: string; readonly end: string }

export function stage(s: Source, name: string, { BX, BK, threads, memory, row, start, extent, end }: Tile): Stage {
  const vec = s.unit === 4, { order } = s.operand, blocks = vec && order === "along";
  // a slot of work is a 4 x 4 block that is transposed, or four neighbours at one k
  const kUnits = blocks ? BK / 4 : BK, count = kUnits * (BX / 4), slots = Math.ceil(count / threads), ragged = count % threads !== 0;
  const setup: string[] = [], declare: string[] = [], put: string[] = [], slotsOf: ((k0: string, checked: boolean) => string)[] = [];
  for (let i = 0; i < slots; i++) {
    const p = `${name}p${i}`, k = `${name}k${i}`, x = `${name}x${i}`, r = `${name}r${i}`;
    const kFirst = order !== "across";
    setup.push(`let ${p} = li + ${i * threads}u; let ${k} = ${kFirst ? `${p} % ${kUnits}u` : `${p} / ${BX / 4}u`}; let ${x} = ${kFirst ? `${p} / ${kUnits}u` : `${p} % ${BX / 4}u`};`);
    const guard = ragged && i === slots - 1 ? `if (${p} < ${count}u) ` : "";
    const regs = blocks ? [0, 1, 2, 3].map((e) => `${r}_${e}`) : [r];
    declare.push(`var ${regs.map((q) => `${q}: vec4<f32>`).join("; var ")};`);
    const at = (e: number): string => `min(${start} + ${x} * 4u + ${e}u, ${extent} - 1u)`;
    if (blocks) for (let e = 0; e < 4; e++) setup.push(`let ${r}a${e} = ${s.origin} + ${at(e)} * ${s.across} + ${k};`);
    else if (vec) setup.push(`let ${r}a = ${s.origin} + min(${start} / 4u + ${x}, ${extent} / 4u - 1u) + ${k} * ${s.along};`);
    else for (let e = 0; e < 4; e++) setup.push(`let ${r}a${e} = ${s.origin} + ${at(e)} * ${s.across} + ${k} * ${s.along};`);
    const load = blocks ? regs.map((q, e) => `${q} = ${s.read(`${r}a${e} + ${name}k`)};`).join(" ")
      : vec ? `${r} = ${s.read(`${r}a + ${name}k`)};`
      : `${r} = vec4<f32>(${[0, 1, 2, 3].map((e) => s.read(`${r}a${e} + ${name}k`)).join(", ")});`;
    const zero = regs.map((q) => `${q} = vec4<f32>();`).join(" ");
    slotsOf.push((k0, checked) => (checked ? `${zero} if (${guard ? `${p} < ${count}u && ` : ""}${k0} + ${k}${blocks ? " * 4u" : ""} < ${end}) { ${load} }` : `${guard}{ ${load} }`));
    const to = (e: string): string => `${memory}[(${k}${blocks ? ` * 4u + ${e}` : ""}) * ${row}u + ${x}]`;
    put.push(`${guard}{ ${blocks
      ? ["x", "y", "z", "w"].map((c, e) => `${to(`${e}u`)} = vec4<f32>(${regs.map((q) => `${q}.${c}`).join(", ")});`).join(" ")
      : `${to("")} = ${r};`} }`);
  }
  const fetch = (k0: string): string[] => [
    `let ${name}k = ${blocks ? `${k0} / 4u` : `${k0} * ${s.along}`};`,
    `if (${k0} + ${BK}u <= ${end}) { ${slotsOf.map((f) => f(k0, false)).join("\n")} } else { ${slotsOf.map((f) => f(k0, true)).join("\n")} }`,
  ];
  return { setup: [...setup, ...declare], fetch, put };
}
