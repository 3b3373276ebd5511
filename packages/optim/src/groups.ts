/** Parameter groups: which leaf learns at which rate and decays how much. */
import { ConfigError } from "@adjoint/tensor";
import { callable, flag, knownKeys, notNegative, oneOf, refuse } from "./check.ts";
import { type Role, roleOf, roles } from "./roles.ts";
import type { Schedule } from "./schedules.ts";

/** Parameters of these roles. */
export interface RoleMatch { readonly role: Role | readonly Role[] }
/** Leaves that a group takes: a predicate of the path (a compiled pattern's, for one), the path's last components ("lora_B.weight"), or roles. */
export type Match = ((path: string) => boolean) | string | RoleMatch;

/** What a group changes; what it leaves out is the optimizer's own. A leaf belongs to the first group that matches. */
export interface Group {
  readonly match: Match;
  /** what errors call it; default `groups[i]` */
  readonly name?: string;
  /** the group may take no leaf at all (default false: such a group is refused) */
  readonly optional?: boolean;
  readonly learningRate?: number | Schedule;
  /** decay of these leaves; given here, it holds for norms and biases too */
  readonly weightDecay?: number;
  /** a multiplier of the learning rate */
  readonly schedule?: Schedule;
}
/** The part of an optimizer's options that groups may change. */
export interface RateOptions {
  /** a number, or a function of the step t = 0, 1, ... */
  readonly learningRate?: number | Schedule;
  /** a multiplier of the learning rate, for groups of different rates under one curve */
  readonly schedule?: Schedule;
  readonly weightDecay?: number;
  readonly groups?: readonly Group[];
  /** leaves without decay; by default norms and biases by their names (Transformers' rule); null: every leaf decays */
  readonly noDecay?: ((path: string) => boolean) | null;
}

/** Resolved options of one set of leaves. */
export interface GroupRule { readonly rate: Schedule; readonly decay: number }
/** What each leaf gets. */
export interface Rules {
  readonly of: (path: string) => Schedule;
  readonly decay: (path: string) => number;
  /** position of the group that takes this leaf; -1 for the optimizer's own options */
  readonly group: (path: string) => number;
  /** the optimizer's own rate */
  readonly rate: Schedule;
  /** every rate is a number: no step differs from another */
  readonly constant: boolean;
  /** refuses a group that takes no leaf */
  check(paths: readonly string[]): void;
}

const undecayed = /bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)|(?:^|\.)ln_(?:\d+|f)\./;
/** Norms and biases by their names: the rule of Transformers' Trainer (`get_decay_parameter_names`), which knows GPT-2's `ln_1` by its class. */
export const isNormOrBias = (path: string): boolean => undecayed.test(path.toLowerCase());

/** Whether a predicate holds, a path ends with these whole components, or is of such a role. */
export function matches(match: Match, path: string): boolean {
  if (typeof match === "function") return match(path);
  if (typeof match === "string") return path === match || path.endsWith(`.${match}`);
  const role = roleOf(path);
  return typeof match.role === "string" ? match.role === role : match.role.includes(role);
}

/** Refuses what cannot say which leaves it takes. */
export function checkMatch(op: string, key: string, match: Match): Match {
  if (typeof match === "function" || typeof match === "string") return match;
  const given: unknown = match;
  if (typeof given !== "object" || given === null || !("role" in given)) return refuse(op, key, given, "the last components of a path, a function of the path, or { role }");
  knownKeys(op, match, ["role"], `${key}.`);
  const asked = typeof match.role === "string" ? [match.role] : match.role, list: unknown = asked;
  if (!Array.isArray(list) || list.length === 0) return refuse(op, `${key}.role`, list, `a role or a list of roles (${roles.join(", ")})`);
  for (const role of asked) oneOf(op, `${key}.role`, role, roles);
  return match;
}

function checkedRate(op: string, [key, factorKey]: readonly [string, string], learningRate: number | Schedule, factor: Schedule | undefined): Schedule {
  const given: unknown = learningRate;
  if (typeof learningRate === "number") notNegative(op, key, learningRate);
  else if (typeof given !== "function") refuse(op, key, given, "a finite number of at least 0, or a function of the step");
  if (factor !== undefined) callable(op, factorKey, factor, "a function of the step");
  const rate: Schedule = typeof learningRate === "number" ? () => learningRate : learningRate;
  return (t) => {
    const value = rate(t) * (factor ? factor(t) : 1);
    if (!(Number.isFinite(value) && value >= 0)) throw new ConfigError(`${op}: the learning rate of step ${t} is ${value}`, { op, key, value, fix: "the schedule must give finite numbers of at least 0" });
    return value;
  };
}

const groupKeys: readonly string[] = ["match", "name", "optional", "learningRate", "weightDecay", "schedule"];

/** Refuses groups that are none, or that hold what no group has. */
export function checkGroups(op: string, groups: readonly Group[]): void {
  const list: unknown = groups;
  if (!Array.isArray(list)) refuse(op, "groups", list, "a list of groups, [{ match, learningRate, ... }]");
  groups.forEach((g, i) => {
    const at = `groups[${i}]`, name = (): unknown => g.name;
    knownKeys(op, g, groupKeys, `${at}.`);
    checkMatch(op, `${at}.match`, g.match);
    flag(op, `${at}.optional`, g.optional ?? false);
    if (g.name !== undefined && typeof name() !== "string") refuse(op, `${at}.name`, g.name, "a text");
    if (g.weightDecay !== undefined) notNegative(op, `${at}.weightDecay`, g.weightDecay);
  });
}

/** Reads the options of rates, decay and groups. */
export function rulesOf(op: string, options: RateOptions & { readonly learningRate: number | Schedule; readonly weightDecay: number }): Rules {
  const { learningRate, weightDecay, schedule, groups = [], noDecay = isNormOrBias } = options;
  notNegative(op, "weightDecay", weightDecay);
  if (noDecay !== null) callable(op, "noDecay", noDecay, "a function of the path, or null");
  checkGroups(op, groups);
  const own = checkedRate(op, ["learningRate", "schedule"], learningRate, schedule);
  const rates = groups.map((g, i) => checkedRate(op, [`groups[${i}].learningRate`, `groups[${i}].schedule`], g.learningRate ?? learningRate, g.schedule ?? schedule));
  const group = (path: string): number => groups.findIndex((g) => matches(g.match, path));
  return {
    rate: own, group, constant: [learningRate, schedule, ...groups.flatMap((g) => [g.learningRate, g.schedule])].every((x) => typeof x !== "function"),
    of: (path) => rates[group(path)] ?? own,
    decay: (path) => groups[group(path)]?.weightDecay ?? (noDecay?.(path) ? 0 : weightDecay),
    check(paths) {
      groups.forEach((g, i) => {
        if (g.optional !== true && !paths.some((p) => group(p) === i)) {
          const shown = typeof g.match === "string" ? `"${g.match}"` : typeof g.match === "function" ? (g.name === undefined ? "its predicate" : "it") : `role ${[g.match.role].flat().join(", ")}`;
          throw new ConfigError(`${op}: ${g.name ?? `groups[${i}]`} takes no parameter: ${shown} matches none that an earlier group does not take`, { op, key: g.name ?? `groups[${i}].match`, value: g.match, fix: `parameters are named like ${paths.slice(0, 3).join(", ")}` });
        }
      });
    },
  };
}
