/** Refusals of options that make no sense, each naming the option, its value and the fix. */
import { ConfigError } from "@adjoint/tensor";

const refuse = (op: string, key: string, value: unknown, must: string): never => {
  throw new ConfigError(`${op}: ${key} must ${must}, got ${String(value)}`, { op, key, value, fix: `give a ${key} that does ${must}` });
};

/** A finite number that is not negative. */
export const notNegative = (op: string, key: string, value: number): number =>
  (Number.isFinite(value) && value >= 0 ? value : refuse(op, key, value, "be a finite number of at least 0"));

/** A finite number. */
export const finite = (op: string, key: string, value: number): number => (Number.isFinite(value) ? value : refuse(op, key, value, "be a finite number"));

/** A number in [0, 1). */
export const fraction = (op: string, key: string, value: number): number => (value >= 0 && value < 1 ? value : refuse(op, key, value, "lie in [0, 1)"));

/** A whole number that is not negative. */
export const whole = (op: string, key: string, value: number): number => (Number.isInteger(value) && value >= 0 ? value : refuse(op, key, value, "be a whole number of at least 0"));

/** Options that are not known are refused: none is silently ignored. */
export function knownKeys(op: string, options: object, known: readonly string[]): void {
  const key = Object.keys(options).find((k) => !known.includes(k));
  if (key !== undefined) throw new ConfigError(`${op}: there is no option ${key}`, { op, key, value: key, fix: `known options: ${known.join(", ")}` });
}

/** true or false. */
export const flag = (op: string, key: string, value: boolean): boolean => (typeof value === "boolean" ? value : refuse(op, key, value, "be true or false"));

/** One of several words. */
export const oneOf = <T extends string>(op: string, key: string, value: T, words: readonly T[]): T => (words.includes(value) ? value : refuse(op, key, value, `be one of ${words.join(", ")}`));
