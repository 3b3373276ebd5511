import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { ConfigError, FormatError, type HostArray, toBf16 } from "@adjoint/tensor";
import { fixture, golden } from "@adjoint/testing/fixtures";
import { describeTargets, expectedTensors, factorKey, type LoadReport, lowRank, matchTensors, parseKey, readAdapterDirectory, readLoraConfig, writeAdapterDirectory } from "../src/index.ts";
import { llamaModules } from "./llama-modules.ts";

const adapters = ["lora", "rslora", "patterns", "bf16-base", "embedding"];

async function load(name: string, which = "adapter") {
  const directory = await readAdapterDirectory(fixture(`peft/${name}/${which}`));
  const table = describeTargets(directory.config, llamaModules, "llama");
  return { directory, table, expected: expectedTensors(table.targets.map((site) => ({ site, method: lowRank })), directory.config) };
}

function report(run: () => unknown): LoadReport {
  try {
    run();
  } catch (error) {
    if (error instanceof FormatError && error.details.value !== undefined) return JSON.parse(JSON.stringify(error.details.value));
    throw error;
  }
  throw new Error("nothing was thrown");
}

const array = (...shape: number[]): HostArray => ({ dtype: "f32", shape, data: Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => i / 16) });

let scratch = "";
beforeAll(async () => {
  scratch = await mkdtemp(join(tmpdir(), "adjoint-lora-"));
});
afterAll(() => rm(scratch, { recursive: true, force: true }));

describe("adapter directories of PEFT", () => {
  it.each(adapters)("loads strictly, with PEFT's scales: %s", async (name) => {
    const { directory, table, expected } = await load(name);
    const { factors, base, report } = matchTensors(directory.tensors, expected, { file: directory.file });
    expect(report).toMatchObject({ missing: [], unexpected: [], mismatched: [], renamed: [], warnings: [], loaded: expected.length });
    expect([...factors.keys()].sort()).toEqual([...directory.tensors.keys()].filter((k) => !k.includes("base_layer")).sort());
    expect([...base.keys()].sort()).toEqual(name === "embedding" ? ["lm_head.weight", "model.embed_tokens.weight"] : []);
    const { scales } = golden<{ scales: Record<string, number> }>(`peft/${name}`);
    expect(Object.fromEntries(table.targets.map((t) => [t.path, t.scale]))).toEqual(scales);
  });

  it.each(["lora", "rslora", "patterns", "bf16-base"])("writes the bytes that PEFT wrote: %s", async (name) => {
    const { directory } = await load(name, "trained");
    const out = join(scratch, name);
    await writeAdapterDirectory(out, directory.config, directory.tensors);
    const weights = "adapter_model.safetensors";
    expect(Buffer.compare(await readFile(join(out, weights)), await readFile(fixture(`peft/${name}/trained/${weights}`)))).toBe(0);
    const config = "adapter_config.json";
    expect(JSON.parse(await readFile(join(out, config), "utf8"))).toEqual(JSON.parse(await readFile(fixture(`peft/${name}/trained/${config}`), "utf8")));
    const again = await readAdapterDirectory(out);
    expect(again.tensors).toEqual(directory.tensors);
  });

  it("says what to do about pickles, missing files, models and subfolders", async () => {
    const make = async (name: string, files: readonly string[]): Promise<string> => {
      const dir = join(scratch, name);
      await mkdir(dir, { recursive: true });
      for (const f of files) await writeFile(join(dir, f), f === "adapter_config.json" ? '{"peft_type": "LORA"}' : "{}");
      return dir;
    };
    const message = async (dir: string): Promise<string> => readAdapterDirectory(dir).then(() => "loaded", (e: unknown) => (e instanceof FormatError ? e.message : `other error ${String(e)}`));
    expect(await message(join(scratch, "nowhere"))).toContain("no such directory");
    expect(await message(await make("pickle", ["adapter_config.json", "adapter_model.bin"]))).toContain("save_pretrained");
    expect(await message(await make("empty", []))).toContain("subfolder");
    expect(await message(await make("model", ["config.json", "model.safetensors"]))).toContain("looks like a model");
    expect(await message(await make("half", ["adapter_config.json"]))).toContain("holds no adapter_model.safetensors");
    expect(await message(join(await make("file", ["x"]), "x"))).toContain("is a file");
    expect(await message(await make("cut", ["adapter_config.json", "adapter_model.safetensors"]))).toContain("adapter_model.safetensors");
  });

  it("refuses numbers that are not finite", async () => {
    const { config, tensors } = await readAdapterDirectory(fixture("peft/lora/adapter")), at = join(scratch, "not-finite"), [[name, first]] = tensors, data = first.data.slice();
    data[data.length - 1] = NaN;
    await writeAdapterDirectory(at, config, new Map([...tensors, [name, { ...first, data }]]));
    await expect(readAdapterDirectory(at)).rejects.toThrow(`adapter_model.safetensors: tensor "${name}": element ${data.length - 1} is NaN`);
  });
  it("refuses an adapter whose expression cannot run in linear time", () => {
    const { config } = readLoraConfig('{"peft_type": "LORA", "target_modules": ".*(?<!lm)_head"}');
    expect(() => describeTargets(config, llamaModules)).toThrow(ConfigError);
  });
});

describe("strictness", () => {
  it("reports every missing, unexpected and misshapen tensor at once", async () => {
    const { directory, expected } = await load("lora");
    const tensors = new Map(directory.tensors);
    const [gone, bent] = [...tensors.keys()];
    tensors.delete(gone);
    tensors.set(bent, array(3, 3));
    tensors.set("base_model.model.lm_head.lora_A.weight", array(4, 16));
    tensors.set("base_model.model.lm_head.base_layer.weight", array(61, 16));
    const found = report(() => matchTensors(tensors, expected));
    expect(found.missing).toEqual([gone]);
    expect(found.unexpected).toEqual(["base_model.model.lm_head.lora_A.weight", "base_model.model.lm_head.base_layer.weight"]);
    expect(found.mismatched).toEqual([{ key: bent, expected: expected.find((e) => e.key === bent)?.shape, found: [3, 3] }]);
    const loose = matchTensors(tensors, expected, { strict: false });
    expect(loose.factors.size).toBe(expected.length - 2);
    expect(loose.report).toEqual({ ...found, loaded: expected.length - 2 });
  });

  it("names an adapter that was made for another model", async () => {
    const { directory, expected } = await load("lora");
    const other = new Map([...directory.tensors].map(([k, v]) => [k.replace("layers.1", "layers.7"), v]));
    expect(() => matchTensors(other, expected, { file: "x.safetensors" })).toThrow(/x\.safetensors does not fit the model[^]*missing in the file \(4\)[^]*unexpected in the file \(4\)[^]*base_model_name_or_path/);
  });

  it("refuses integers, and two names for one tensor", () => {
    const key = factorKey("q", "A", "linear");
    const expected = [{ key, path: "q", role: "A" as const, shape: [1, 2] as const }];
    expect(() => matchTensors(new Map([[key, { dtype: "i32", shape: [1, 2], data: new Int32Array(2) }]]), expected)).toThrow(/dtype i32/);
    expect(() => matchTensors(new Map([[key, array(1, 2)], ["q.lora_A.default.weight", array(1, 2)]]), expected)).toThrow(/are the same tensor/);
  });

  it("widens half precision to f32", () => {
    const key = factorKey("q", "A", "linear");
    const half: HostArray = { dtype: "bf16", shape: [1, 2], data: Uint16Array.of(toBf16(1.5), toBf16(-2)) };
    const { factors } = matchTensors(new Map([[key, half]]), [{ key, path: "q", role: "A", shape: [1, 2] }]);
    expect(factors.get(key)).toEqual({ dtype: "f32", shape: [1, 2], data: Float32Array.of(1.5, -2) });
  });
});

describe("names of tensors", () => {
  const part = fc.constantFrom("model", "layers", "0", "q_proj", "weight", "lora_net", "default", "base", "module", "weight_proj");
  const path = fc.array(part, { minLength: 1, maxLength: 5 }).filter((p) => p[0] !== "module").map((p) => p.join("."));
  const role = fc.constantFrom("A" as const, "B" as const);
  const kind = fc.constantFrom("linear" as const, "embedding" as const);

  it("reads its own names and all older spellings, whatever the modules are called", () => {
    const adapterName = fc.constantFrom("default", "lora", "my-adapter", "weight");
    fc.assert(
      fc.property(path, role, kind, adapterName, fc.nat(7), (p, r, k, name, bits) => {
        const canonical = factorKey(p, r, k);
        expect(parseKey(canonical)).toEqual({ kind: "factor", canonical, adapterName: null });
        let old = canonical;
        if (bits & 1) old = k === "embedding" ? `${old}.${name}` : old.replace(/\.weight$/, `.${name}.weight`);
        if (bits & 2) old = old.slice("base_model.model.".length);
        if (bits & 4) old = `module._orig_mod.${old}`;
        const parsed = parseKey(old);
        expect(parsed.kind === "factor" ? parsed.canonical : parsed.kind).toBe(canonical);
        expect(parsed.kind === "factor" ? parsed.adapterName : "").toBe(bits & 1 ? name : null);
      }),
    );
  });

  it("takes the names of every other tensor in the spelling of today and in older ones", () => {
    const canonical = (key: string): string => { const p = parseKey(key); return p.kind === "factor" ? p.canonical.slice("base_model.model.".length) : p.kind === "plain" ? p.names.map((n) => n.slice("base_model.model.".length)).join(" or ") : `${p.path} base ${p.parameter}`; };
    expect(["q.lora_magnitude_vector", "q.lora_magnitude_vector.weight", "q.lora_magnitude_vector.default", "q.lora_magnitude_vector.default.weight"].map(canonical)).toEqual(Array.from({ length: 4 }, () => "q.lora_magnitude_vector"));
    expect(["q.lora_B.bias", "q.lora_B.default.bias"].map(canonical)).toEqual(["q.lora_B.bias", "q.lora_B.bias"]);
    expect(["q.lora_E", "q.lora_E.default", "q.lora_A", "q.lora_A.default"].map(canonical)).toEqual(["q.lora_E", "q.lora_E", "q.lora_A", "q.lora_A"]);
    expect(["e.token_adapter.trainable_tokens_delta", "e.token_adapter.trainable_tokens_delta.default"].map(canonical)).toEqual(Array.from({ length: 2 }, () => "e.token_adapter.trainable_tokens_delta"));
    expect(canonical("module.base_model.model.head.modules_to_save.weight")).toBe("head.modules_to_save.weight or head.weight");
    expect(canonical("head.modules_to_save.default.bias")).toBe("head.modules_to_save.default.bias or head.bias or head.default.bias");
    expect(canonical("base_model.model.lm_head.base_layer.weight")).toBe("lm_head base weight");
    expect(canonical("base_model.model.lm_head.original_module.bias")).toBe("lm_head base bias");
    for (const key of ["lora_A.weight", "q.weight", "vera_A", "q.lora_A.weight.x", "q.lora_net.weight"]) expect(parseKey(key).kind, key).toBe("plain");
  });
});
