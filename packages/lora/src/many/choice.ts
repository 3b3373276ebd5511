/** What a call of a set says: which adapters are on, and with what factors. */
import { ConfigError, Tensor } from "@adjoint/tensor";

/** Which adapters are on: one, several in order, or with factors on their scales (numbers or tensors of one element; both enter as data). [] is the base. */
export type Choice = string | readonly string[] | Readonly<Record<string, number | Tensor>>;

export const isTensor = (x: unknown): x is Tensor => x instanceof Tensor;
/** Names and factors of a choice. @throws ConfigError for what is none */
export function entriesOf(choice: Choice): readonly (readonly [string, number | Tensor])[] {
  if (typeof choice === "string") return [[choice, 1]];
  if (!isGiven(choice)) throw new ConfigError("no adapter is chosen", { op: "with", key: "choice", value: choice, fix: 'name one, several, or factors: "a", ["a", "b"], { a: 0.5 }; [] is the base' });
  return isList(choice) ? choice.map((name) => [name, 1] as const) : Object.entries(choice);
}
const isGiven = (choice: unknown): boolean => typeof choice === "object" && choice !== null && !isTensor(choice);
const isList = (choice: Exclude<Choice, string>): choice is readonly string[] => Array.isArray(choice);
