/** An optimizer's memory in the layout of torch's `state_dict()`, and that layout as named arrays for a safetensors file. */
import { type Counter, FormatError, type HostArray, type Store, flushAll, sameShape, show } from "@adjoint/tensor";
import type { Rules } from "./groups.ts";
import { type Saved, joinPath, saveState } from "./state.ts";

/** Layout of torch's `state_dict()`; `names` are the parameters' paths in the order of `params`. */
export interface TorchState {
  readonly state: Readonly<Record<number, Readonly<Record<string, HostArray>>>>;
  readonly param_groups: readonly (Readonly<Record<string, unknown>> & { readonly params: readonly number[]; readonly names?: readonly string[] })[];
}
type Derived = Readonly<Record<string, (t: number) => number>>;
/** What torch, Transformers and bitsandbytes save beside the state although it follows from the rest. */
const constants: ReadonlySet<string> = new Set(["RMS", "qmap1", "qmap2"]);
const one = (x: number): HostArray => ({ dtype: "f32", shape: [], data: new Float32Array([x]) });

/** Leaves of one group and one decay form a torch group; leaves without an update have no state, as in torch. */
export async function torchState(o: Saved, rules: Rules | null, hyper: Readonly<Record<string, unknown>>, derived: Derived): Promise<TorchState> {
  const taken = Math.max(0, o.counter.value - 1), sets = new Map<string, string[]>();
  for (const path of Object.keys(o.params)) {
    const key = rules ? `${rules.group(path)} ${rules.decay(path)}` : "";
    sets.set(key, [...(sets.get(key) ?? []), path]);
  }
  const saved = await saveState(o), state: Record<number, Record<string, HostArray>> = {}, groups: TorchState["param_groups"][number][] = [];
  let next = 0;
  for (const names of sets.values()) {
    const params = names.map(() => next++), path = names[0];
    groups.push({ ...(rules ? { lr: rules.of(path)(taken), weight_decay: rules.decay(path) } : {}), ...hyper, params, names });
    names.forEach((name, i) => {
      const steps = saved[joinPath("step", name)].data[0];
      if (steps === 0) return;
      const own = Object.keys(o.states).filter((key) => name in o.states[key]);
      state[params[i]] = { step: one(steps), ...Object.fromEntries(own.map((key) => [key, saved[joinPath(key, name)]])), ...Object.fromEntries(Object.entries(derived).map(([key, f]) => [key, one(f(steps))])) };
    });
  }
  return { state, param_groups: groups };
}

/** Checks everything, then changes everything. Leaves that torch has no state for must be new here too. */
export function loadTorchState(o: Saved, { state, param_groups }: TorchState, derived: Derived): void {
  const op = `${o.name}.loadStateDict`, here = Object.keys(o.params), ids = param_groups.flatMap((g) => g.params);
  const refuse = (message: string, key: string): never => { throw new FormatError(`${o.name}: ${message}`, { op, key, fix: "load the state with the optimizer, model and adapter that it was saved with" }); };
  const named = param_groups.every((g) => g.names?.length === g.params.length);
  const names = named ? param_groups.flatMap((g) => g.names ?? []) : [...ids].sort((a, b) => a - b).map((_, i) => here[i]);
  const idOf = new Map(names.map((name, i) => [name, named ? ids[i] : [...ids].sort((a, b) => a - b)[i]]));
  const missing = here.filter((path) => !idOf.has(path)), unexpected = names.filter((name) => name === undefined || !(name in o.params));
  if (ids.length !== here.length || missing.length || unexpected.length) {
    const list = (what: string, x: readonly string[]): string => (x.length && named ? `\n  ${what} (${x.length}): ${x.slice(0, 8).join(", ")}${x.length > 8 ? ", ..." : ""}` : "");
    refuse(`the saved state is of ${ids.length} parameters, this optimizer trains ${here.length}${list("missing", missing)}${list("unexpected", unexpected)}`, missing[0] ?? unexpected[0] ?? "param_groups");
  }
  const changes: [Store, HostArray][] = [], ticks: [Counter, number][] = [];
  for (const path of here) {
    const found = state[idOf.get(path)!], own = Object.keys(o.states).filter((key) => path in o.states[key]);
    if (found === undefined) {
      if (o.updates[path].value > 0) refuse(`the saved state has nothing for ${path}, which has been updated here`, path);
      continue;                                                        // as in torch: never updated
    }
    const gone = own.find((key) => !(key in found)), odd = Object.keys(found).find((key) => key !== "step" && !own.includes(key) && !(key in derived) && !constants.has(key));
    if (gone !== undefined) refuse(`the saved state of ${path} has no ${gone}`, `${gone}.${path}`);
    if (odd !== undefined) refuse(`the saved state of ${path} has ${odd}, which this optimizer does not remember`, `${odd}.${path}`);
    for (const key of own) {
      const h = found[key], s = o.states[key][path];
      if (!sameShape(h.shape, s.shape)) refuse(`${key} of ${path} has shape ${show(h.shape)} in the saved state, ${show(s.shape)} here`, `${key}.${path}`);
      if (h.dtype !== s.dtype) refuse(`${key} of ${path} is ${h.dtype} in the saved state, ${s.dtype} here`, `${key}.${path}`);
      changes.push([s, h]);
    }
    const t = "step" in found ? Number(found.step.data[0]) : 1;          // torch's SGD does not count
    if (!Number.isInteger(t) || t < 0) refuse(`the step of ${path} is ${t}`, `step.${path}`);
    ticks.push([o.updates[path], t]);
  }
  flushAll();
  for (const [c, t] of ticks) c.value = t;
  o.counter.value = ticks.reduce((most, [, t]) => Math.max(most, t), 0);
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
  return { state, param_groups: groupsOf(op, metadata.param_groups) };
}
function groupsOf(op: string, text: string | undefined): TorchState["param_groups"] {
  let groups: unknown = null;
  try { groups = JSON.parse(text ?? "null"); } catch { /* refused below */ }
  const isGroup = (g: unknown): g is TorchState["param_groups"][number] => typeof g === "object" && g !== null && "params" in g && Array.isArray(g.params) && g.params.every((i) => Number.isInteger(i));
  if (!Array.isArray(groups) || !groups.every(isGroup)) throw new FormatError(`${op}: the metadata hold no param_groups`, { op, key: "param_groups", value: text, fix: "give the metadata of a file that packTorchState made" });
  return groups;
}
