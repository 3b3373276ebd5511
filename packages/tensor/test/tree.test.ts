import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { ConfigError } from "../src/errors.ts";
import { combine, flatten, mapTree, partition, treePaths, unflatten, zipTrees } from "../src/tree.ts";

/** A leaf with fields of its own, as tensors have. */
class Leaf {
  readonly value: number;
  readonly inner: { readonly deep: number } = { deep: 1 };
  constructor(value: number) { this.value = value; }
  toString(): string { return `Leaf(${this.value})`; }
}
const isLeaf = (x: unknown): x is Leaf => x instanceof Leaf;
class Layer {
  weight = new Leaf(1);
  bias: Leaf | null = null;
  size = 3;
  activation = (x: number): number => x;
  forward(): number { return this.weight.value * this.size; }
}

const trees = fc.letrec<{ tree: unknown; branch: unknown }>((tie) => ({
  tree: fc.oneof({ depthSize: "small" }, fc.integer().map((n) => new Leaf(n)), fc.constantFrom(null, undefined, 3, "text"), tie("branch")),
  branch: fc.oneof(fc.array(tie("tree"), { maxLength: 3 }), fc.dictionary(fc.constantFrom("a", "b", "weight", "0"), tie("tree"), { maxKeys: 3 })),
})).branch;

describe("trees", () => {
  test("a model is its fields", () => {
    const model = { embed: new Leaf(0), layers: [new Layer(), new Layer()], name: "m" };
    expect(treePaths(model, isLeaf)).toEqual(["embed", "layers.0.weight", "layers.1.weight"]);
    const twice = mapTree(model, isLeaf, (l) => new Leaf(l.value * 2));
    expect(twice.layers[1].forward()).toBe(6);
    expect(twice.layers[0]).toBeInstanceOf(Layer);
    expect(model.layers[1].forward()).toBe(3);
  });

  test("mapping by the identity keeps everything", () => {
    fc.assert(fc.property(trees, (tree) => { expect(mapTree(tree, isLeaf, (l) => l)).toEqual(tree); }));
  });

  test("unflatten undoes flatten", () => {
    fc.assert(fc.property(trees, (tree) => { expect(unflatten(tree, isLeaf, flatten(tree, isLeaf).leaves)).toEqual(tree); }));
  });

  test("combine undoes partition, and the parts share nothing", () => {
    fc.assert(fc.property(trees, (tree) => {
      const even = (l: Leaf): boolean => l.value % 2 === 0, [a, b] = partition(tree, isLeaf, even);
      expect(combine(a, b, isLeaf)).toEqual(tree);
      expect(combine(b, a, isLeaf)).toEqual(tree);
      expect(flatten(a, isLeaf).leaves.every(even)).toBe(true);
      expect(flatten(a, isLeaf).leaves.length + flatten(b, isLeaf).leaves.length).toBe(flatten(tree, isLeaf).leaves.length);
      expect(flatten(b, isLeaf).leaves.some(even)).toBe(false);
    }));
  });

  test("combine never mixes two leaves", () => {
    const a = new Leaf(1), b = new Leaf(2);
    expect(combine({ x: a, y: null }, { x: b, y: b }, isLeaf)).toEqual({ x: a, y: b });
  });

  test("a shared leaf appears at both names, a cycle is refused by name", () => {
    const shared = new Leaf(5);
    expect(flatten({ a: shared, b: [shared] }, isLeaf)).toEqual({ paths: ["a", "b.0"], leaves: [shared, shared] });
    const loop: { child: { parent?: unknown } } = { child: {} };
    loop.child.parent = loop;
    expect(() => flatten(loop, isLeaf)).toThrow(ConfigError);
    expect(() => flatten(loop, isLeaf)).toThrow("child.parent");
  });

  test("zipTrees names the first difference", () => {
    const sum = zipTrees({ a: new Leaf(1), b: [new Leaf(2)] }, isLeaf, { a: new Leaf(3), b: [new Leaf(4)] }, isLeaf, (x, y) => x.value + y.value);
    expect(sum).toEqual({ a: 4, b: [6] });
    expect(() => zipTrees({ a: new Leaf(1) }, isLeaf, { b: new Leaf(1) }, isLeaf, () => 0)).toThrow(/a.*b/);
    expect(() => zipTrees({ a: new Leaf(1) }, isLeaf, { a: new Leaf(1), b: new Leaf(1) }, isLeaf, () => 0)).toThrow(/b/);
    expect(() => unflatten({ a: new Leaf(1) }, isLeaf, [])).toThrow(ConfigError);
  });
});
