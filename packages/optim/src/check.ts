/** Refusals of options that make no sense, each naming the option, its value and the fix. */
import { ConfigError } from "@adjoint/tensor";

/** A value as an error shows it. */
export function shown(value: unknown): string {
  if (typeof value === "string") return JSON.stringify(value);
  if (typeof value === "function") return "a function";
  if (Array.isArray(value)) return `[${value.map(shown).join(", ")}]`;
  if (typeof value !== "object" || value === null || value instanceof RegExp) return String(value);
  return `{${Object.keys(value).join(", ")}}`;
}
/** Refuses a value, saying what it must be. */
export const refuse = (op: string, key: string, value: unknown, must: string, where = ""): never => {
  throw new ConfigError(`${op}: ${key}${where} must be ${must}, got ${shown(value)}`, { op, key, value, fix: `give ${must}` });
};
const isNumber = (value: unknown): value is number => typeof value === "number";

/** A finite number that is not negative. */
export const notNegative = (op: string, key: string, value: number): number =>
  (Number.isFinite(value) && value >= 0 ? value : refuse(op, key, value, "a finite number of at least 0"));

/** A finite number above 0. */
export const aboveZero = (op: string, key: string, value: number): number => (Number.isFinite(value) && value > 0 ? value : refuse(op, key, value, "a finite number above 0"));

/** A finite number. */
export const finite = (op: string, key: string, value: number): number => (Number.isFinite(value) ? value : refuse(op, key, value, "a finite number"));

/** A number in [0, 1). */
export const fraction = (op: string, key: string, value: number): number => (isNumber(value) && value >= 0 && value < 1 ? value : refuse(op, key, value, "a number in [0, 1)"));

/** A whole number that is not negative. */
export const whole = (op: string, key: string, value: number): number => (Number.isInteger(value) && value >= 0 ? value : refuse(op, key, value, "a whole number of at least 0"));

/** A list of so many values. */
export const tuple = <T extends readonly unknown[]>(op: string, key: string, value: T, n: T["length"]): T => {
  const given: unknown = value;
  return Array.isArray(given) && given.length === n ? value : refuse(op, key, value, `a list of ${n} values`);
};

/** A function. */
export const callable = <F>(op: string, key: string, value: F, what: string): F => (typeof value === "function" ? value : refuse(op, key, value, what));

/** f, each of whose values must be at least 0 and below `end` at the step that asks for it. */
export const checkedSteps = (op: string, key: string, f: (t: number) => number, end?: number): ((t: number) => number) => (t) => {
  const value = f(t);
  return isNumber(value) && value >= 0 && value < (end ?? Infinity) ? value : refuse(op, key, value, end === undefined ? "a finite number of at least 0" : `a number in [0, ${end})`, ` of step ${t}`);
};

/** An object that is no list. */
export function objectOf<T extends object>(op: string, key: string, value: T, must: string = "an object of options"): T {
  const given: unknown = value;
  return typeof given === "object" && given !== null && !Array.isArray(given) ? value : refuse(op, key, given, must);
}

/** Options that are not known are refused: none is silently ignored. `within` says which part of the options these are (`groups[0].`). */
export function knownKeys(op: string, options: object, known: readonly string[], within = ""): void {
  objectOf(op, within === "" ? "options" : within.slice(0, -1), options, `an object of options (${known.join(", ")})`);
  const key = Object.keys(options).find((k) => !known.includes(k));
  if (key !== undefined) throw new ConfigError(`${op}: there is no option ${within}${key}`, { op, key: `${within}${key}`, value: key, fix: `known options: ${known.join(", ")}` });
}

/** Options over defaults that are not the callee's own. */
export const withDefaults = <T extends object>(op: string, options: T, defaults: Partial<T>): T => ({ ...defaults, ...objectOf(op, "options", options) });

/** true or false. */
export const flag = (op: string, key: string, value: boolean): boolean => (typeof value === "boolean" ? value : refuse(op, key, value, "true or false"));

/** One of several words. */
export const oneOf = <T extends string>(op: string, key: string, value: T, words: readonly T[]): T => (words.includes(value) ? value : refuse(op, key, value, `one of ${words.join(", ")}`));
