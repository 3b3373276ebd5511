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
