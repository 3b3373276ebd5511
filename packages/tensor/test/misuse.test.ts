/** What someone who writes plain JavaScript gets wrong: each is refused in words, none is ignored. */
import { expect, test } from "vitest";
import { ConfigError, DTypeError, ShapeError, getDevice, knownOptions, setDevice, store, tensor } from "../src/index.ts";

interface Options { readonly maxNewTokens?: number; readonly seed?: number }
const names = { maxNewTokens: true, seed: true } as const;
const given = (text: string): Options => JSON.parse(text) as Options;

test("options of other names are refused, with the one that was meant", () => {
  knownOptions<Options>("generate", {}, names);
  knownOptions<Options>("generate", { seed: 1 }, names);
  const refused = (text: string): string => { try { knownOptions("generate", given(text), names); } catch (error) { if (error instanceof ConfigError) return error.message; } return "nothing"; };
  expect(refused('{"max_new_tokens":1}')).toBe("generate: there is no option max_new_tokens\n  fix: did you mean maxNewTokens?");
  expect(refused('{"seeds":1}')).toMatch("did you mean seed?");
  expect(refused('{"temperature":1}')).toMatch("known options: maxNewTokens, seed");
  for (const bad of ["40", "null", "[]", '"x"']) expect(refused(bad)).toMatch("options are an object");
});

test("a tensor in a text is what console.log prints, and nothing else becomes a number", () => {
  expect(`${tensor([1, 2]).named("x")}`).toBe("Tensor f32 [2] x\n[1., 2.]");
  expect(String(tensor([1, 2]).mul(2))).toBe("Tensor f32 [2] = mul(leaf [2], scalar [])");
  expect(store(tensor([1, 2]), "w").toString()).toMatch("Tensor f32 [2] w");
  const x: unknown = tensor([1]);
  expect(() => (x as number) * 2).toThrow(DTypeError);
  expect(() => (x as string) + "!").toThrow(DTypeError);
});

test("what is no number, and sizes that are no list", () => {
  const make: (data: unknown) => unknown = (data) => tensor(data as number[]);
  for (const bad of [undefined, null, ["a"], [1, "2"], [[1], null]]) expect(() => make(bad)).toThrow(DTypeError);
  expect(() => make([[1, 2], [3]])).toThrow(/ragged/);
  expect(() => Reflect.apply(tensor([1, 2]).reshape, tensor([1, 2]), [2, 1])).toThrow(ShapeError);
  expect(() => Reflect.apply(tensor([[1, 2]]).permute, tensor([[1, 2]]), [1, 0])).toThrow("x.permute([...])");
});

test("a device, not a name or a promise of one", () => {
  const before = getDevice(), choose: (device: unknown) => unknown = (device) => Reflect.apply(setDevice, null, [device]);
  for (const [bad, what] of [["webgpu", '"webgpu"'], [Promise.resolve(before), "a promise"], [undefined, "of type undefined"]] as const) expect(() => choose(bad)).toThrow(`setDevice: the device is ${what}`);
  expect(getDevice()).toBe(before);
  expect(choose(before)).toBe(before);
});

test("shapes that do not broadcast are told apart", () => {
  expect(() => tensor([1, 2, 3]).add(tensor([1, 2]))).toThrow("a  [3]\n  b  [2]");
  expect(() => tensor([1, 2, 3]).named("x").add(tensor([1, 2]))).toThrow("x  [3]\n  b  [2]");
});
