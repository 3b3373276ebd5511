/** One base, a set of adapters over it and an adapter outside of the set: who merges into it is known to both. */
import { describe, expect, it } from "vitest";
import { ConfigError, type Tensor, tensor } from "@adjoint/tensor";
import { adapterSet, type AdapterSet, lora, mergeAndReinit, type Tuned } from "../src/index.ts";
import { grid, gridNet, type Net, restart } from "./net.ts";

const ids = tensor(Int32Array.from([0, 3, 1, 4, 2, 3]), { shape: [2, 3] });
const numbers = async (t: Tensor): Promise<number[]> => [...(await t.data())];
async function filled(tuned: Tuned<Net>): Promise<Tuned<Net>> {
  for (const s of tuned.tensors().values()) s.set(await grid(s.shape, "f32").host());
  return tuned;
}
/** A set of a and b over a base, and an adapter of that base in no set. */
async function parties(): Promise<{ set: AdapterSet<Net>; alone: Tuned<Net> }> {
  restart(3);
  const set = adapterSet(gridNet("f32"));
  for (const name of ["a", "b"]) await filled(set.add(name, { r: 2, targetModules: ["up"] }));
  return { set, alone: await filled(lora(set.base, { r: 1, targetModules: ["up", "c_fc"] })) };
}
const outside = /the adapter outside of sets \(lora on up and 1 more\)/;

it("a set sees what an adapter outside of it merges, until that is taken out or joins the set", async () => {
  const { set, alone } = await parties(), view = set.with("a"), mixed = set.rows(["a", null]), y = await numbers(view.forward(ids)), base = await numbers(set.with([]).forward(ids)), weight = await numbers(set.base.up.weight);
  await alone.merge();
  for (const use of [() => view.forward(ids), () => set.with(["a", "b"]).forward(ids), () => set.with([]).forward(ids), () => mixed.forward(ids)]) {
    expect(use).toThrow(ConfigError);
    expect(use).toThrow(outside);
  }
  expect(() => set.with(["a", "b"]).forward(ids)).toThrow(/after the set of adapters a, b was made/);
  await expect(set.merge("a")).rejects.toThrow(outside);
  expect(() => set.get("a").forward(ids)).toThrow(/outside of sets.*after adapter a of a set was made/);
  await alone.unmerge();
  expect(await numbers(set.base.up.weight)).toEqual(weight);
  expect([await numbers(view.forward(ids)), await numbers(set.with([]).forward(ids))]).toEqual([y, base]);
  await alone.merge();
  set.add("c", alone);
  expect(set.merged).toEqual(["c"]);
  await numbers(set.with(["a", "c"]).forward(ids));
  await set.unmerge();
  set.delete("c");
  expect(await numbers(view.forward(ids))).toEqual(y);
});

it("an adapter outside of sets sees what a set merges, by its name there; one that is made over the merge takes it as its base", async () => {
  const { set, alone } = await parties(), frozen = alone.frozen(), y = await numbers(alone.forward(ids));
  set.setScale("a", 2); // what is merged is a copy
  await set.merge("a");
  for (const use of [() => alone.forward(ids), () => frozen.forward(ids), () => alone.mergedWeights()]) expect(use).toThrow(/hold adapter a of a set, which was merged into them after the adapter outside of sets \(lora on up and 1 more\) was made/);
  await expect(alone.merge()).rejects.toThrow(/adapter a of a set/);
  set.rename("a", "z");
  expect(() => alone.forward(ids)).toThrow(/adapter z of a set/);
  const other = adapterSet(set.base);
  other.add("x", { r: 1, targetModules: ["up"] });
  const over = lora(set.base, { r: 1, targetModules: ["up"] }), z = await numbers(over.forward(ids));
  expect(z).toEqual(await numbers(set.base.forward(ids)));
  expect(await numbers(other.with("x").forward(ids))).toEqual(z);
  await over.merge();
  await expect(set.unmerge()).rejects.toThrow(/the adapter outside of sets \(lora on up\) was merged after adapter z/);
  expect(set.merged).toEqual(["z"]);
  await over.unmerge();
  await set.unmerge();
  expect(await numbers(alone.forward(ids))).toEqual(y);
  for (const use of [() => over.forward(ids), () => other.with("x").forward(ids)]) expect(use).toThrow(/was made over a base that held adapter z of a set, which has been taken out since/);
});

it("an update that goes into the base for good, as ReLoRA's, is known to the other party too", async () => {
  const { set, alone } = await parties(), twin = await filled(lora(set.base, { r: 1, targetModules: ["c_fc"] }));
  await mergeAndReinit(alone, { count: 1 });
  expect(() => set.with("a").forward(ids)).toThrow(/changed for good by the adapter outside of sets \(lora on up and 1 more\) \(as ReLoRA does\) after the set of adapter a was made/);
  await expect(set.merge("a")).rejects.toThrow(/changed for good/);
  await numbers(alone.forward(ids));
  await numbers(twin.forward(ids));
  const next = adapterSet(set.base);
  next.add("x", { r: 1, targetModules: ["up"] });
  expect(await numbers(next.with("x").forward(ids))).toEqual(await numbers(set.base.forward(ids)));
  await mergeAndReinit(next.get("x"), { count: 1 });
  await numbers(next.with("x").forward(ids));
  expect(() => alone.forward(ids)).toThrow(/changed for good by adapter x of a set/);
});

it("two sets over one base see each other", async () => {
  const { set } = await parties(), other = adapterSet(set.base);
  other.add("x", { r: 1, targetModules: ["up"] });
  await set.merge("b");
  expect(() => other.with("x").forward(ids)).toThrow(/adapter b of a set.*the set of adapter x/);
  await expect(other.merge("x")).rejects.toThrow(/adapter b of a set/);
  await set.unmerge();
  await other.merge("x");
  expect(() => set.with(["a"]).forward(ids)).toThrow(/adapter x of a set/);
});

describe("calls that overlap", () => {
  const weights = async (net: Net): Promise<number[][]> => Promise.all([net.up.weight, net.c_fc.weight].map(numbers));

  it("merge all that they name, and come out bit for bit", async () => {
    const { set } = await parties(), before = await weights(set.base);
    const want = await numbers(set.with(["a", "b"]).forward(ids));
    await Promise.all([set.merge("a"), set.merge("b")]);
    expect(set.merged).toEqual(["a", "b"]);
    (await numbers(set.base.forward(ids))).forEach((v, i) => { expect(v).toBeCloseTo(want[i], 5); });
    await Promise.all([set.unmerge("b"), set.unmerge("a"), set.merge("b")]);
    expect(set.merged).toEqual(["b"]);
    await set.unmerge();
    expect(await weights(set.base)).toEqual(before);
  });

  it("of one adapter merge it once: the second is refused, and the base comes back", async () => {
    const { alone } = await parties(), before = await weights(alone.base), results = await Promise.allSettled([alone.merge(), alone.merge(), alone.unmerge(), alone.merge()]);
    expect(results.map((r) => r.status)).toEqual(["fulfilled", "rejected", "fulfilled", "fulfilled"]);
    expect(results[1]).toMatchObject({ reason: expect.any(ConfigError) as unknown });
    await alone.unmerge();
    expect([alone.merged, await weights(alone.base)]).toEqual([false, before]);
  });

  it("absorb what ReLoRA does in one turn", async () => {
    const { alone } = await parties(), y = await numbers(alone.forward(ids));
    await Promise.all([mergeAndReinit(alone, { count: 1 }), alone.merge()]);
    expect(alone.merged).toBe(true);
    (await numbers(alone.forward(ids))).forEach((v, i) => { expect(v).toBeCloseTo(y[i], 5); });
  });

  it("leave no way to delete, scale or rename an adapter while it is on its way into the base", async () => {
    const { set } = await parties(), merging = set.merge("a");
    await Promise.resolve();
    await Promise.resolve();
    for (const change of [() => { set.delete("a"); }, () => { set.setScale("a", 2); }, () => { set.rename("a", "z"); }]) expect(change).toThrow(/adapter a is being merged.*await the merge first/s);
    set.setScale("b", 2);
    await merging;
    expect(set.merged).toEqual(["a"]);
    set.rename("a", "z");
    await set.unmerge();
    set.delete("z");
    expect(set.names).toEqual(["b"]);
  });

  it("say that a name is given twice", async () => {
    const { set } = await parties();
    await expect(set.merge(["a", "a"])).rejects.toThrow(/named twice: a, a/);
    expect(set.merged).toEqual([]);
  });
});
