/** Typed access to a config.json, with errors that name file, key, value and fix. */
import { ConfigError } from "@adjoint/tensor";

/** A parsed config.json, keys as Hugging Face writes them. */
export type ConfigJson = Readonly<Record<string, unknown>>;

const REPAIR = "take the config.json that came with the model";

export class Reader {
  readonly json: ConfigJson;
  readonly file: string;
  readonly prefix: string;
  constructor(json: ConfigJson, file: string, prefix = "") { this.json = json; this.file = file; this.prefix = prefix; }
  bad(key: string, problem: string, fix: string): ConfigError {
    const value = this.json[key];
    return new ConfigError(`${this.file}: ${this.prefix}${key} is ${JSON.stringify(value) ?? "missing"}: ${problem}`, { file: this.file, key: `${this.prefix}${key}`, value, fix });
  }
  number(key: string, fallback?: number, ok: (x: number) => boolean = (x) => x > 0): number {
    const value = this.json[key] ?? fallback;
    if (typeof value === "number" && Number.isFinite(value) && ok(value)) return value;
    throw this.bad(key, "a positive number is needed", REPAIR);
  }
  /** A probability of dropping: 0 <= p < 1. */
  dropout(key: string, fallback = 0): number { return this.number(key, fallback, (x) => x >= 0 && x < 1); }
  size(key: string, fallback?: number): number {
    const n = this.number(key, fallback);
    if (!Number.isInteger(n)) throw this.bad(key, "a whole number is needed", REPAIR);
    return n;
  }
  flag(key: string, fallback: boolean): boolean {
    const value = this.json[key] ?? fallback;
    if (typeof value === "boolean") return value;
    throw this.bad(key, "true or false is needed", REPAIR);
  }
  /** Token ids: one, several or none. */
  ids(key: string): number[] {
    const value = this.json[key] ?? [], list: unknown[] = Array.isArray(value) ? value : [value];
    if (list.every((x): x is number => typeof x === "number" && Number.isInteger(x))) return list;
    throw this.bad(key, "token ids are whole numbers", REPAIR);
  }
  /** One of several texts. */
  choice<T extends string>(key: string, allowed: readonly T[], fallback: T, what: string): T {
    const value = this.json[key] ?? fallback, found = allowed.find((x) => x === value);
    if (found === undefined) throw this.bad(key, `${what} is not implemented`, `use a model with ${key} = ${allowed.map((x) => JSON.stringify(x)).join(" or ")}`);
    return found;
  }
  /** Refuses a value under which the numbers would differ from ours. */
  only(key: string, allowed: readonly unknown[], what: string): void {
    const value = this.json[key];
    if (value !== undefined && value !== null && !allowed.includes(value)) throw this.bad(key, `${what} is not implemented`, `use a model with ${key} = ${allowed.map((x) => JSON.stringify(x)).join(" or ")}`);
  }
}
