/**
 * Random programs of assignments in a plain loop: stores end as plain arrays do under the same statements, and no value is
 * stale that was recorded from the stores in the iteration that assigns it.
 */
import fc from "fast-check";
import { type Backend, type Tensor, AdjointError, StaleError, assign, fromHost, getDevice, setDevice, store } from "@adjoint/tensor";

/** v = op(a, b): operands are positions among the stores' values and what the iteration has computed so far. */
interface Step { readonly op: "add" | "mix"; readonly a: number; readonly b: number }
/** Stores that one `assign` changes together, each with the steps that lead to its new value. */
interface Statement { readonly stores: readonly number[]; readonly steps: readonly (readonly Step[])[] }
/**
 * "first": all values are recorded before anything is assigned, to each store once; "between": each statement's values just
 * before it. "mixed": the last statement's values first, the others between: they may be stale by then, never wrong.
 */
interface Iteration { readonly record: "first" | "between" | "mixed"; readonly statements: readonly Statement[]; readonly read: number | null }
/** Integer stores, so that every device computes the same bits. */
export interface AssignmentProgram { readonly stores: number; readonly size: number; readonly iterations: readonly Iteration[] }

/** Three numbers are carried along unasked, a hundred are not. */
const sizes = [3, 100];

/** Random programs. */
export function assignmentPrograms(): fc.Arbitrary<AssignmentProgram> {
  const steps = (least: number): fc.Arbitrary<Step[]> => fc.array(fc.record({ op: fc.constantFrom("add" as const, "mix" as const), a: fc.nat(5), b: fc.nat(5) }), { minLength: least, maxLength: 2 });
  const cut = (order: number[], ends: boolean[]): number[][] => order.reduce<number[][]>((groups, s, i) => { if (i && !ends[i]) groups[groups.length - 1].push(s); else groups.push([s]); return groups; }, []);
  const iteration = (stores: number): fc.Arbitrary<Iteration> => fc.constantFrom("first" as const, "first" as const, "between" as const, "between" as const, "mixed" as const).chain((record) => {
    const all = Array.from({ length: stores }, (_, i) => i);
    const order = record === "first" ? fc.shuffledSubarray(all, { minLength: 1 }) : fc.array(fc.shuffledSubarray(all, { minLength: 1 }), { minLength: 1, maxLength: 3 });
    const groups = order.chain((o) => (Array.isArray(o[0]) ? fc.constant(o as number[][]) : fc.array(fc.boolean(), { minLength: stores, maxLength: stores }).map((ends) => cut(o as number[], ends))));
    return fc.record({
      record: fc.constant(record), read: fc.option(fc.nat(stores - 1), { nil: null, freq: 2 }),
      statements: groups.chain((gs) => fc.tuple(...gs.map((g) => fc.tuple(...g.map(() => steps(record === "between" ? 0 : 1))).map((s): Statement => ({ stores: g, steps: s }))))),
    });
  });
  return fc.record({ stores: fc.integer({ min: 2, max: 4 }), size: fc.constantFrom(...sizes) })
    .chain(({ stores, size }) => fc.array(iteration(stores), { minLength: 1, maxLength: 4 }).map((iterations): AssignmentProgram => ({ stores, size, iterations })))
    .map((p) => Object.defineProperty(p, fc.toStringMethod, { value: () => showAssignments(p), enumerable: false }));
}

/** The program as the lines that a user would write. */
export function showAssignments(p: AssignmentProgram): string {
  const lines = [`${p.stores} stores of ${p.size}`];
  for (const it of p.iterations) {
    walk(it, p.stores, Array.from({ length: p.stores }, (_, i) => `s${i}`), (step, x, y) => { const name = `v${lines.length}`; lines.push(`${name} = ${step.op}(${x}, ${y})`); return name; }, (stores, values) => { lines.push(`assign [${stores.map((s) => `s${s}`).join()}] = [${values.join()}]`); return Array.from({ length: p.stores }, (_, i) => `s${i}`); });
    lines.push(it.read === null ? "---" : `--- read s${it.read}`);
  }
  return lines.join("\n");
}

/** The order of recordings and assignments, for any kind of value. */
function walk<T>(it: Iteration, stores: number, start: readonly T[], compute: (step: Step, x: T, y: T) => T, give: (stores: readonly number[], values: readonly T[]) => readonly T[]): void {
  let known = [...start];
  const valueOf = (s: number, steps: readonly Step[]): T => {
    let v = known[s % stores];
    for (const step of steps) known.push((v = compute(step, known[step.a % known.length], known[step.b % known.length])));
    return v;
  };
  if (it.record === "first") {
    const values = it.statements.map((st) => st.stores.map((s, i) => valueOf(s + 1, st.steps[i])));
    it.statements.forEach((st, i) => give(st.stores, values[i]));
    return;
  }
  const last = it.statements[it.statements.length - 1], early = it.record === "mixed" ? last.stores.map((s, i) => valueOf(s + 1, last.steps[i])) : null;
  for (const st of it.statements) known = [...give(st.stores, st === last && early ? early : st.stores.map((s, i) => valueOf(s + 1, st.steps[i])))];
}

/** Runs a program on stores of a device and on plain arrays, and compares every store. */
export async function checkAssignments(p: AssignmentProgram, backend: Backend, title: string): Promise<void> {
  const before = getDevice();
  setDevice(backend);
  const start = Array.from({ length: p.stores }, (_, s) => Int32Array.from({ length: p.size }, (_x, i) => s + 2 + (i % 5)));
  const stores = start.map((data, s) => store({ dtype: "i32", shape: [p.size], data }, `s${s}`));
  try {
    let plain: readonly Int32Array[] = start;
    const same = async (s: number, when: string): Promise<void> => {
      const got = await stores[s].data(), wrong = plain[s].findIndex((x, i) => x !== got[i]);
      if (wrong >= 0) throw new AdjointError(`${title}: element ${wrong} of s${s} is ${got[wrong]} ${when}, arrays give ${plain[s][wrong]}`, { op: "assign" });
    };
    for (const [n, it] of p.iterations.entries()) {
      walk<Int32Array>(it, p.stores, plain, (step, x, y) => x.map((v, i) => onNumbers(step, v, y[i])), (to, values) => (plain = plain.map((old, s) => (to.includes(s) ? values[to.indexOf(s)] : old))));
      walk<Tensor>(it, p.stores, stores, onTensors, (to, values) => { assign(to.map((s) => stores[s]), values); return stores; });
      if (it.read !== null) await same(it.read, `after iteration ${n}`);
    }
    for (let s = 0; s < p.stores; s++) await same(s, "at the end");
  } catch (error) {
    if (!(error instanceof StaleError && p.iterations.some((it) => it.record === "mixed"))) throw error;
  } finally {
    stores.forEach((s, i) => { s.set({ dtype: "i32", shape: [p.size], data: start[i] }); });   // a failed program leaves nothing waiting
    setDevice(before);
  }
}
const onNumbers = ({ op }: Step, x: number, y: number): number => (op === "add" ? (x + y) | 0 : (Math.imul(x, 3) - y) | 0);
const onTensors = ({ op }: Step, x: Tensor, y: Tensor): Tensor => (op === "add" ? x.add(y) : x.mul(three).sub(y));
const three = fromHost({ dtype: "i32", shape: [], data: Int32Array.of(3) });
