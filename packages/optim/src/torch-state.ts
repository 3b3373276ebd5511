/** An optimizer's memory in the layout of torch's `state_dict()`, and that layout as named arrays for a safetensors file. */
import { type Counter, FormatError, type HostArray, type Store, flushAll, sameShape, show } from "@adjoint/tensor";
import { knownKeys, whole } from "./check.ts";
import type { Rules } from "./groups.ts";
import type { Hyper } from "./optimizer.ts";
import { type Saved, isHostArray, joinPath, saveState } from "./state.ts";
import type { Transform } from "./transform.ts";

/**
 * Layout of torch's `state_dict()`. `param_names` are the parameters' paths in the order of `params` (torch writes them for named parameters; `names`, their
 * older name here, is read too). `adjoint_offset` is steps less the most updates of a leaf, the same in all groups: torch carries it along.
 */
export interface TorchState {
  readonly state: Readonly<Record<number, Readonly<Record<string, HostArray>>>>;
  readonly param_groups: readonly TorchGroup[];
}
/** One of its groups. */
export type TorchGroup = Readonly<Record<string, unknown>> & { readonly params: readonly number[]; readonly param_names?: readonly string[]; readonly names?: readonly string[]; readonly adjoint_offset?: number };
/** How `loadStateDict` reads a state. */
export interface LoadOptions {
  /** steps taken so far, for states that do not count them (torch's SGD) or count them wrongly */
  readonly step?: number;
}
/** What of the layout follows from the optimizer. */
export interface Layout extends Pick<Transform, "derived" | "constants" | "fromStart"> { readonly rules: Rules | null; readonly hyper: Hyper }
/** What torch, Transformers and bitsandbytes save beside the state although it follows from the rest. */
const ignored: ReadonlySet<string> = new Set(["RMS"]);
const OFFSET = "adjoint_offset";
const one = (x: number): HostArray => ({ dtype: "f32", shape: [], data: new Float32Array([x]) });

/** Leaves of one group and one decay form a torch group. */
function groupsOf(o: Saved, rules: Rules | null): readonly (readonly string[])[] {
  const sets = new Map<string, string[]>();
  for (const path of Object.keys(o.params)) {
    const key = rules ? `${rules.group(path)} ${rules.decay(path)}` : "";
    sets.set(key, [...(sets.get(key) ?? []), path]);
  }
  return [...sets.values()];
}
const mostUpdates = (o: Saved): number => Object.values(o.updates).reduce((most, c) => Math.max(most, c.value), 0);

/** Leaves without an update have no state, as in torch (Adagrad's have one there from the start). */
export async function torchState(o: Saved, { rules, hyper, derived = {}, constants = {}, fromStart = false }: Layout): Promise<TorchState> {
  const taken = Math.max(0, o.counter.value - 1), offset = o.counter.value - mostUpdates(o), sets = groupsOf(o, rules), options = typeof hyper === "function" ? hyper(taken) : hyper;
  const saved = await saveState(o), state: Record<number, Record<string, HostArray>> = {}, groups: TorchGroup[] = [];
  let next = 0;
  for (const names of sets) {
    const params = names.map(() => next++), path = names[0];
    groups.push({ ...(rules ? { lr: rules.of(path)(taken), weight_decay: rules.decay(path) } : {}), ...options, [OFFSET]: offset, params, param_names: names });
    names.forEach((name, i) => {
      const steps = Number(saved[joinPath("step", name)].data[0]);
      if (steps === 0 && !fromStart) return;
      const own = Object.keys(o.states).filter((key) => name in o.states[key]), given = Object.entries(constants).filter(([, c]) => own.includes(c.beside));
      state[params[i]] = Object.fromEntries([
        ["step", one(steps)], ...own.map((key) => [key, saved[joinPath(key, name)]] as const), ...given.map(([key, c]) => [key, c.value] as const), ...Object.entries(derived).map(([key, f]) => [key, one(f(steps))] as const),
      ]);
    });
  }
  return { state, param_groups: groups };
}

type Refuse = (message: string, key: string, fix?: string) => never;

/** The number that each leaf has in a saved state: by names where it has them; else by the order of the tree, or of its groups where there are several. */
function numbersOf(o: Saved, groups: TorchState["param_groups"], rules: Rules | null, refuse: Refuse): ReadonlyMap<string, number> {
  const here = Object.keys(o.params), ids = groups.flatMap((g) => g.params), lists = groups.map((g) => g.names ?? g.param_names), key = groups.some((g) => g.names) ? "names" : "param_names";
  const anyNamed = lists.some((l) => l !== undefined), short = groups.findIndex((g, i) => lists[i]?.length !== g.params.length);
  if (anyNamed && short >= 0) refuse(`group ${short} of the saved state has ${lists[short]?.length ?? 0} names for ${groups[short].params.length} parameters`, key, "give every group a name for each parameter, or no group any");
  if (new Set(ids).size !== ids.length) refuse("the saved state gives one number to two parameters", "params");
  const names = anyNamed ? lists.flatMap((l) => l ?? []) : null, twice = names?.find((n, i) => names.indexOf(n) !== i);
  if (twice !== undefined) refuse(`the saved state has two parameters of the name ${twice}`, key);
  const known = new Set(names), missing = names ? here.filter((path) => !known.has(path)) : [], unexpected = names?.filter((name) => !(name in o.params)) ?? [];
  if (ids.length !== here.length || missing.length || unexpected.length) {
    const list = (what: string, x: readonly string[]): string => (x.length ? `\n  ${what} (${x.length}): ${x.slice(0, 8).join(", ")}${x.length > 8 ? ", ..." : ""}` : "");
    const renamed = names !== null && ids.length === here.length && missing.length === here.length;
    refuse(`the saved state is of ${ids.length} parameters, this optimizer trains ${here.length}${list("missing", missing)}${list("unexpected", unexpected)}`, missing[0] ?? unexpected[0] ?? "param_groups", renamed ? `if it is the same model under other names in the same order, leave ${key} out of its groups` : undefined);
  }
  if (names) return new Map(names.map((name, i) => [name, ids[i]]));
  const own = groupsOf(o, rules);
  if (groups.length > 1 && (own.length !== groups.length || own.some((paths, i) => paths.length !== groups[i].params.length))) {
    refuse(`the saved state has groups of ${groups.map((g) => g.params.length).join(", ")} parameters without names, this optimizer has groups of ${own.map((paths) => paths.length).join(", ")}`, "param_groups", "give each group its parameters' names (param_names)");
  }
  const other = groups.length > 1 && rules ? groups.findIndex((g, i) => typeof g["weight_decay"] === "number" && (g["weight_decay"] === 0) !== (rules.decay(own[i][0]) === 0)) : -1;
  if (other >= 0) refuse(`group ${other} of the saved state has a weight_decay of ${String(groups[other]["weight_decay"])} and no names, group ${other} here one of ${String(rules?.decay(own[other][0]))}: they may be in another order`, "param_groups", "give each group its parameters' names (param_names)");
  return new Map((groups.length > 1 ? own.flat() : here).map((path, i) => [path, ids[i]]));
}

/** Steps taken: as said, as counted by the leaves (with what torch has carried along), or as it does not matter. */
function stepsOf(o: Saved, groups: TorchState["param_groups"], { rules }: Layout, { step }: LoadOptions, counts: readonly number[], uncounted: boolean, refuse: Refuse): number {
  if (step !== undefined) return whole(`${o.name}.loadStateDict`, "step", step);
  const most = counts.reduce((a, b) => Math.max(a, b), 0), offset = groups[0]?.[OFFSET] ?? null;
  if (offset !== null && !(Number.isInteger(offset) && most + offset >= 0)) refuse(`${OFFSET} is ${String(offset)}`, OFFSET);
  if (offset === null && uncounted && rules?.constant !== true) refuse("the saved state does not count its steps, and the rate here depends on the step", "step", "say how many have been taken: loadStateDict(state, { step })");
  return most + (offset ?? 0);
}

const sameNumbers = (a: ArrayLike<number | bigint>, b: ArrayLike<number | bigint>): boolean => a.length === b.length && Array.from(a, Number).every((x, i) => Math.abs(x - Number(b[i])) <= 1e-6 * Math.abs(x));

/** A state in torch's layout, or what is wrong with it: a file of another kind, numbers that are no tensors. */
function checkedLayout(given: unknown, refuse: Refuse): TorchState {
  const isObject = (x: unknown): x is Readonly<Record<string, unknown>> => typeof x === "object" && x !== null && !Array.isArray(x), fix = "give what `stateDict`, or torch's `state_dict()` through unpackTorchState, gave";
  if (!isObject(given) || !isObject(given["state"]) || !areGroups(given["param_groups"])) return refuse("a state in torch's layout is { state, param_groups: [{ params }] }", "param_groups", fix);
  for (const [id, cells] of Object.entries(given["state"])) {
    const odd = isObject(cells) ? Object.keys(cells).find((name) => !isHostArray(cells[name])) : "state";
    if (odd !== undefined) return refuse(`${odd} of parameter ${id} is no tensor { dtype, shape, data }`, `state.${id}.${odd}`, fix);
  }
  return { state: given["state"] as TorchState["state"], param_groups: given["param_groups"] };
}

/** Checks everything, then changes everything. Leaves that torch has no state for must be new here too. */
export function loadTorchState(o: Saved, given: TorchState, layout: Layout, options: LoadOptions): void {
  const op = `${o.name}.loadStateDict`, { derived = {}, constants = {} } = layout;
  knownKeys(op, options, ["step"]);
  const refuse: Refuse = (message, key, fix = "load the state with the optimizer, model and adapter that it was saved with") => { throw new FormatError(`${o.name}: ${message}`, { op, key, fix }); };
  const { state, param_groups } = checkedLayout(given, refuse);
  const idOf = numbersOf(o, param_groups, layout.rules, refuse), changes: [Store, HostArray][] = [], ticks: [Counter, number][] = [];
  let counted = false, any = Object.keys(o.states).length === 0;        // without states torch saves nothing at all
  for (const [path, id] of idOf) {
    const own = Object.keys(o.states).filter((key) => path in o.states[key]), found = state[id] as (typeof state)[number] | undefined;
    if (found === undefined) {
      if (own.length === 0 && options.step !== undefined) ticks.push([o.updates[path], options.step]);
      else if (o.updates[path].value > 0) refuse(`the saved state has nothing for ${path}, which has been updated here`, path);
      continue;                                                        // as in torch: never updated
    }
    const fixed = Object.keys(constants).filter((key) => own.includes(constants[key].beside));
    const gone = own.find((key) => !(key in found)), odd = Object.keys(found).find((key) => key !== "step" && !own.includes(key) && !fixed.includes(key) && !(key in derived) && !ignored.has(key));
    if (gone !== undefined) refuse(`the saved state of ${path} has no ${gone}`, `${gone}.${path}`);
    if (odd !== undefined) refuse(`the saved state of ${path} has ${odd}, which this optimizer does not remember`, `${odd}.${path}`);
    for (const key of fixed) if (key in found && !sameNumbers(constants[key].value.data, found[key].data)) refuse(`${key} of ${path} is another map than the dynamic one of bitsandbytes`, `${key}.${path}`, "save the state with bitsandbytes's default map");
    for (const key of own) {
      const h = found[key], s = o.states[key][path];
      if (!sameShape(h.shape, s.shape)) refuse(`${key} of ${path} has shape ${show(h.shape)} in the saved state, ${show(s.shape)} here`, `${key}.${path}`);
      if (h.dtype !== s.dtype) refuse(`${key} of ${path} is ${h.dtype} in the saved state, ${s.dtype} here`, `${key}.${path}`);
      changes.push([s, h]);
    }
    if (!("step" in found) && options.step === undefined && own.some((key) => key !== "momentum_buffer")) refuse(`the saved state of ${path} has no step`, `step.${path}`, "say how many have been taken: loadStateDict(state, { step })");
    const t = "step" in found ? Number(found.step.data[0]) : (options.step ?? 1);   // torch's SGD does not count
    any = true;
    counted ||= "step" in found;
    if (!Number.isInteger(t) || t < 0) refuse(`the step of ${path} is ${t}`, `step.${path}`);
    ticks.push([o.updates[path], t]);
  }
  const taken = stepsOf(o, param_groups, layout, options, ticks.map(([, t]) => t), any && !counted, refuse);
  flushAll();
  for (const [c, t] of ticks) c.value = t;
  o.counter.value = taken;
  for (const [s, h] of changes) s.set({ dtype: s.dtype, shape: s.shape, data: h.data.slice() });
}

/** A torch state as the tensors (`state.<parameter>.<name>`) and the metadata (`param_groups`, as JSON) of a safetensors file. */
export function packTorchState({ state, param_groups }: TorchState): { readonly tensors: Record<string, HostArray>; readonly metadata: Record<string, string> } {
  const tensors: Record<string, HostArray> = {};
  for (const [id, cells] of Object.entries(state)) for (const [name, h] of Object.entries(cells)) tensors[`state.${id}.${name}`] = h;
  return { tensors, metadata: { param_groups: JSON.stringify(param_groups) } };
}

/** The inverse of `packTorchState`. Errors: FormatError for other names, or metadata without groups. */
export function unpackTorchState(tensors: Readonly<Record<string, HostArray>>, metadata: Readonly<Record<string, string>>): TorchState {
  const op = "unpackTorchState", state: Record<number, Record<string, HostArray>> = {};
  for (const [key, h] of Object.entries(tensors)) {
    const parts = /^state\.(\d+)\.(.+)$/.exec(key);
    if (!parts) throw new FormatError(`${op}: ${key} is not of the form state.<parameter>.<name>`, { op, key, fix: "give the tensors of a file that packTorchState made" });
    (state[Number(parts[1])] ??= {})[parts[2]] = h;
  }
  return { state, param_groups: readGroups(op, metadata.param_groups) };
}
function areGroups(groups: unknown): groups is TorchState["param_groups"] {
  const isGroup = (g: unknown): boolean => typeof g === "object" && g !== null && "params" in g && Array.isArray(g.params) && g.params.every((i) => Number.isInteger(i));
  return Array.isArray(groups) && groups.every(isGroup);
}
function readGroups(op: string, text: string | undefined): TorchState["param_groups"] {
  let groups: unknown = null;
  try { groups = JSON.parse(text ?? "null"); } catch { /* refused below */ }
  if (!areGroups(groups)) throw new FormatError(`${op}: the metadata hold no param_groups`, { op, key: "param_groups", value: text, fix: "give the metadata of a file that packTorchState made" });
  return groups;
}
