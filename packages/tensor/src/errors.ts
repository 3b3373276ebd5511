/** The one family of errors: each carries fields, so that tests and tools can read the cause instead of parsing prose. */

/** Fields that any error of this family may carry. */
export interface ErrorDetails {
  /** operation, function or command that refused */
  readonly op?: string;
  /** file that holds the bad value */
  readonly file?: string;
  /** key, tensor or argument name */
  readonly key?: string;
  /** the offending value, printed */
  readonly value?: unknown;
  /** what to do about it */
  readonly fix?: string;
  readonly shapes?: readonly (readonly number[])[];
  readonly cause?: unknown;
}

/** Base of all errors that adjoint throws on purpose. */
export class AdjointError extends Error {
  readonly details: ErrorDetails;
  constructor(message: string, details: ErrorDetails = {}) {
    super(details.fix === undefined ? message : `${message}\n  fix: ${details.fix}`, details.cause === undefined ? undefined : { cause: details.cause });
    this.name = new.target.name;
    this.details = details;
  }
}

/** Shapes, axes or index values that do not fit. */
export class ShapeError extends AdjointError {}
/** Element types that do not fit; the message names the cast. */
export class DTypeError extends AdjointError {}
/** A recipe reads a store version that was overwritten. */
export class StaleError extends AdjointError {}
/** The device cannot do what was asked, or failed. */
export class DeviceError extends AdjointError {}
/** A file does not hold what its format promises. */
export class FormatError extends AdjointError {}
/** An option, recipe key or combination that makes no sense. */
export class ConfigError extends AdjointError {}

/** All names of an options type, so that none is forgotten: `const names: OptionNames<MyOptions> = { ... }`. */
export type OptionNames<T> = Readonly<Record<keyof T, true>>;

/**
 * Refuses options of other names than `names`, and what is no object: nothing that a caller writes is silently ignored.
 * @throws ConfigError naming the option, and the known one that it resembles or else all of them
 */
export function knownOptions<T extends object>(op: string, options: T, names: OptionNames<Required<T>>): void {
  const given: unknown = options, known = Object.keys(names);
  if (typeof given !== "object" || given === null || Array.isArray(given)) throw new ConfigError(`${op}: options are an object, got ${Array.isArray(given) ? "a list" : given === null ? "null" : JSON.stringify(given) ?? typeof given}`, { op, key: "options", value: given, fix: `write { ${known.join(", ")} }, or as many of them as you need` });
  const key = Object.keys(given).find((k) => !Object.hasOwn(names, k));
  if (key === undefined) return;
  const plain = (s: string): string => s.toLowerCase().replaceAll(/[_-]/g, ""), like = known.find((k) => plain(k) === plain(key) || alike(plain(k), plain(key)));
  throw new ConfigError(`${op}: there is no option ${key}`, { op, key, value: key, fix: like === undefined ? `known options: ${known.join(", ")}` : `did you mean ${like}?` });
}
/** Whether two words of at least four letters differ in one place (a letter more, less or another). */
function alike(a: string, b: string): boolean {
  if (Math.min(a.length, b.length) < 4 || Math.abs(a.length - b.length) > 1) return false;
  let i = 0;
  while (i < a.length && a[i] === b[i]) i++;
  return a.slice(i + 1) === b.slice(i + 1) || a.slice(i + 1) === b.slice(i) || a.slice(i) === b.slice(i + 1);
}
