import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { ConfigError, FormatError } from "@adjoint/tensor";
import { fixture } from "@adjoint/testing/fixtures";
import { fileDefaults, refusedKeys } from "../src/config/config-keys.ts";
import { camelCase } from "../src/config/config.ts";
import { defaultConfig, loraConfig, type LoraOptions, readLoraConfig, writeLoraConfig } from "../src/index.ts";

const adapters = ["lora", "rslora", "patterns", "bf16-base", "embedding"];
const file = (name: string): string => readFileSync(fixture(`peft/${name}/adapter/adapter_config.json`), "utf8");
const edited = (changes: Readonly<Record<string, unknown>>): string => JSON.stringify({ ...JSON.parse(file("lora")), ...changes });

function caught(run: () => unknown): ConfigError {
  try {
    run();
  } catch (error) {
    if (error instanceof ConfigError) return error;
    throw error;
  }
  throw new Error("nothing was thrown");
}

const names = fc.array(fc.constantFrom("q_proj", "v_proj", "model.layers.0.mlp.up_proj"), { minLength: 1, maxLength: 3 });
const options: fc.Arbitrary<LoraOptions> = fc.record(
  {
    r: fc.integer({ min: 1, max: 2048 }),
    loraAlpha: fc.integer({ min: 1, max: 512 }).map((k) => k / 16),
    loraDropout: fc.integer({ min: 0, max: 15 }).map((k) => k / 16),
    targetModules: fc.oneof(names, fc.constantFrom("all-linear", ".*_proj")),
    excludeModules: fc.oneof(names, fc.constant(null)),
    rankPattern: fc.dictionary(fc.constantFrom("q_proj", "v.*", "^model"), fc.integer({ min: 1, max: 9 })),
    alphaPattern: fc.dictionary(fc.constantFrom("q_proj", "v.*", "^model"), fc.integer({ min: 1, max: 9 })),
    scaling: fc.constantFrom("lora" as const, "rslora" as const),
    initLoraWeights: fc.constantFrom(true, false, "gaussian" as const),
    taskType: fc.constantFrom(null, "CAUSAL_LM"),
  },
  { requiredKeys: [] },
);

describe("adapter_config.json", () => {
  it("has the 41 keys of PEFT, with its defaults", () => {
    const written = JSON.parse(file("lora"));
    expect(Object.keys(fileDefaults)).toEqual(Object.keys(written));
    expect(Object.keys(fileDefaults)).toHaveLength(41);
    expect({ ...written, lora_alpha: 8, r: 8, target_modules: null, task_type: null }).toEqual(fileDefaults);
  });

  it.each(adapters)("repeats PEFT's own file: %s", (name) => {
    const { config, warnings } = readLoraConfig(file(name));
    expect(warnings).toEqual([]);
    expect(JSON.parse(writeLoraConfig(config))).toEqual(JSON.parse(file(name)));
  });

  it("reads back what it wrote, and equal configs give equal bytes", () => {
    fc.assert(
      fc.property(options, (o) => {
        const config = loraConfig(o);
        const text = writeLoraConfig(config);
        const again = readLoraConfig(text);
        expect(again.warnings).toEqual([]);
        expect(writeLoraConfig(again.config)).toBe(text);
        const set = (v: LoraOptions["targetModules"]): unknown => (Array.isArray(v) ? [...new Set(v)].sort() : v);
        expect({ ...again.config, targetModules: set(again.config.targetModules), excludeModules: set(again.config.excludeModules) }).toEqual({
          ...config,
          inferenceMode: true,
          targetModules: set(config.targetModules),
          excludeModules: set(config.excludeModules),
        });
        expect(Object.keys(JSON.parse(text))).toEqual(Object.keys(JSON.parse(text)).sort());
      }),
    );
  });

  it("knows what people write first", () => {
    for (const [short, option] of [["rank", "r"], ["alpha", "loraAlpha"], ["dropout", "loraDropout"], ["rslora", "useRslora"], ["lora_alpha", "loraAlpha"]]) {
      expect(() => loraConfig({ [short]: 8 })).toThrow(`${short} = 8 is not an option of lora\n  fix: did you mean ${option}?`);
    }
  });

  it("gives old files the defaults", () => {
    const { config } = readLoraConfig('{"peft_type": "LORA", "r": 16, "target_modules": ["q_proj"]}');
    expect(config).toEqual({ ...defaultConfig, r: 16, targetModules: ["q_proj"] });
  });

  it("reads what older releases wrote: every key of theirs, with the defaults of today for the rest", () => {
    const then = { auto_mapping: null, base_model_name_or_path: "base", bias: "none", fan_in_fan_out: false, inference_mode: true, init_lora_weights: true, layers_pattern: null, layers_to_transform: null, lora_alpha: 16, lora_dropout: 0.05, modules_to_save: null, peft_type: "LORA", r: 8, revision: null, target_modules: ["q_proj", "v_proj"], task_type: "CAUSAL_LM" };
    const added: [string, Readonly<Record<string, unknown>>][] = [
      ["0.4", {}],
      ["0.5", { rank_pattern: {}, alpha_pattern: {} }],
      ["0.7", { loftq_config: {}, megatron_config: null, megatron_core: "megatron.core" }],
      ["0.8", { use_rslora: false }],
      ["0.9", { use_dora: false, layer_replication: null }],
      ["0.14", { eva_config: null, lora_bias: false, exclude_modules: null }],
      ["0.15", { corda_config: null, trainable_token_indices: null, qalora_group_size: 16, use_qalora: false }],
    ];
    let file: Record<string, unknown> = { ...then };
    for (const [release, keys] of added) {
      file = { ...file, ...keys };
      const { config, warnings } = readLoraConfig(JSON.stringify(file));
      expect(warnings, release).toEqual([]);
      expect(config, release).toEqual({ ...defaultConfig, baseModelNameOrPath: "base", inferenceMode: true, loraAlpha: 16, loraDropout: 0.05, targetModules: ["q_proj", "v_proj"], taskType: "CAUSAL_LM" });
      expect(JSON.parse(writeLoraConfig(config)), release).toEqual({ ...fileDefaults, ...file });
    }
    // 0.2 and before had keys that are gone
    expect(readLoraConfig(JSON.stringify({ ...then, enable_lora: null, merge_weights: false })).warnings).toHaveLength(2);
  });

  it("reports unknown keys with what was ignored", () => {
    const { warnings } = readLoraConfig(edited({ brand_new: 3, target_module: ["q"] }));
    expect(warnings).toEqual([
      "adapter_config.json: unknown key brand_new = 3 is ignored",
      'adapter_config.json: unknown key target_module = ["q"] is ignored (did you mean target_modules?)',
    ]);
  });

  it("refuses every variant that is not implemented, naming file, key, value and fix", () => {
    const values: Record<string, unknown> = { bias: "all", modules_to_save: ["lm_head"], layer_replication: [[0, 2]], target_parameters: ["w"], trainable_token_indices: [1] };
    for (const key of Object.keys(refusedKeys)) {
      const value = values[key] ?? (typeof fileDefaults[key] === "boolean" ? true : { some: 1 });
      const error = caught(() => readLoraConfig(edited({ [key]: value }), "dir/adapter_config.json"));
      expect(error.details).toMatchObject({ file: "dir/adapter_config.json", key, value });
      expect(error.details.fix, key).toBeTruthy();
    }
    expect(caught(() => loraConfig(JSON.parse('{"useQalora": true}'))).message).toContain("QALoRA");
    for (const [key, { neutral }] of Object.entries(refusedKeys)) for (const value of neutral) expect(loraConfig({ [camelCase(key)]: value })).toEqual(defaultConfig);
  });

  it("reads every initialisation of PEFT's with its options, and drops options of others", () => {
    for (const init of ["pissa", "pissa_niter_4", "olora", "loftq", "corda", "lora_ga", "eva", "orthogonal", "mica"]) {
      expect(readLoraConfig(edited({ init_lora_weights: init })).config.initLoraWeights).toBe(init);
    }
    const { config } = readLoraConfig(edited({ init_lora_weights: "eva", eva_config: { rho: 1.5, use_label_mask: false }, corda_config: { corda_method: "kpm" } }));
    expect(config.evaConfig).toEqual({ rho: 1.5, tau: 0.99, useLabelMask: false, labelMaskValue: -100, whiten: false, adjustScalingFactors: true });
    expect(config.cordaConfig).toBe(null);
    expect(JSON.parse(writeLoraConfig(config))).toMatchObject({ init_lora_weights: "eva", corda_config: null, loftq_config: {}, eva_config: { rho: 1.5, tau: 0.99, use_label_mask: false, label_mask_value: -100, whiten: false, adjust_scaling_factors: true } });
    expect(readLoraConfig(writeLoraConfig(config)).config).toEqual(config);
    for (const [key, value] of [["init_lora_weights", "surprise"], ["init_lora_weights", "pissa_niter_"], ["eva_config", 3]] as const) expect(caught(() => readLoraConfig(edited({ [key]: value }))).details).toMatchObject({ key, value });
    expect(caught(() => readLoraConfig(edited({ init_lora_weights: "eva", eva_config: { rho: 0 } }))).details).toMatchObject({ key: "eva_config.rho", value: 0 });
  });

  it.each([
    ["r", [0, -1, 1.5, "8", null, 1e400]],
    ["lora_alpha", [0, -2, "8", null]],
    ["lora_dropout", [-0.1, 1, 2, null]],
    ["target_modules", [3, [1]]],
    ["rank_pattern", [[1], { q: 0 }, { q: 1.5 }]],
    ["alpha_pattern", [{ q: -1 }, { q: "8" }]],
    ["layers_to_transform", [-1, [1.5], "0"]],
    ["use_rslora", [1, "true"]],
    ["task_type", ["CHAT"]],
    ["peft_type", ["LOHA", "IA3", null]],
  ])("refuses bad values of %s", (key, values) => {
    for (const value of values) {
      const error = caught(() => readLoraConfig(edited({ [key]: value })));
      expect(error.details.key).toBe(key);
      expect(error.details.fix).toBeTruthy();
    }
  });

  it("refuses what contradicts itself", () => {
    expect(caught(() => loraConfig({ targetModules: ".*q", layersToTransform: [1] })).details.key).toBe("layersToTransform");
    expect(caught(() => loraConfig({ targetModules: ".*q", layersPattern: "layers" })).details.key).toBe("layersPattern");
    expect(caught(() => loraConfig({ targetModules: ["q"], layersPattern: "layers" })).details.key).toBe("layersPattern");
    expect(caught(() => loraConfig({ useRslora: true, scaling: "lora" })).details.key).toBe("scaling");
    expect(caught(() => loraConfig({ useRslora: false, scaling: "rslora" })).details.key).toBe("scaling");
    expect(loraConfig({ useRslora: true, scaling: "rslora" }).scaling).toBe("rslora");
    expect(loraConfig({ scaling: "rslora" }).useRslora).toBe(true);
  });

  it("refuses options it does not know, with the likely name", () => {
    expect(caught(() => loraConfig(JSON.parse('{"lora_alpha": 8}'))).message).toContain("did you mean loraAlpha?");
    expect(caught(() => loraConfig(JSON.parse('{"alpha": 8}'))).message).toContain("loraAlpha");
    expect(caught(() => loraConfig(JSON.parse('{"rank": 8}'))).message).toContain("is not an option");
  });

  it("says when a file is not JSON, or not an object", () => {
    expect(() => readLoraConfig("{")).toThrow(FormatError);
    expect(() => readLoraConfig("[]")).toThrow(FormatError);
    expect(() => readLoraConfig('{"r": 8}')).toThrow(ConfigError);
  });

  it("does not write a rule that a file cannot hold", () => {
    expect(caught(() => writeLoraConfig(loraConfig({ scaling: (a) => a }))).message).toContain("bakeScale");
  });
});
