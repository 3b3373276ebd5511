import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { ConfigError } from "@adjoint/tensor";
import { golden } from "@adjoint/testing/fixtures";
import { camelCase } from "../src/config/config.ts";
import { bakeScale, defaultTargets, describeTargets, lora, loraConfig, type LoraOptions, type ModuleInfo } from "../src/index.ts";
import { Rich } from "./rich.ts";

type Row = [string, ModuleInfo["kind"], number, number, boolean];
interface Case {
  readonly model: string;
  readonly options: Readonly<Record<string, unknown>>;
  readonly matched?: Readonly<Record<string, readonly [number, number, number]>>;
  readonly error?: string;
}
const { modules, cases } = golden<{ modules: Record<string, Row[]>; cases: Case[] }>("targets");

const infos = (name: string): ModuleInfo[] => modules[name].map(([path, kind, inFeatures, outFeatures, isOutputHead]) => ({ path, kind, inFeatures, outFeatures, isOutputHead }));
const camel = (options: Readonly<Record<string, unknown>>): LoraOptions => Object.fromEntries(Object.entries(options).map(([k, v]) => [camelCase(k), v]));
const modelType = (name: string): string | null => (name in defaultTargets ? name : null);
/** Deliberate difference: a numbered list at the root of the model counts as layers (PEFT #3610 skips it). */
const differs = (c: Case): boolean => c.model === "wide" && c.options["layers_to_transform"] !== undefined && c.options["layers_pattern"] === undefined;

describe("describeTargets", () => {
  it("holds cases of every kind", () => {
    expect(cases.length).toBeGreaterThan(80);
    expect(cases.filter((c) => c.error !== undefined).length).toBeGreaterThan(10);
    expect(cases.filter(differs).length).toBe(1);
  });

  it.each(cases.filter((c) => !differs(c)).map((c) => [`${c.model} ${JSON.stringify(c.options)}`, c] as const))("agrees with PEFT: %s", (_, c) => {
    if (c.matched === undefined) {
      expect(() => describeTargets(camel(c.options), infos(c.model), modelType(c.model))).toThrow(ConfigError);
      return;
    }
    const table = describeTargets(camel(c.options), infos(c.model), modelType(c.model));
    expect(Object.fromEntries(table.targets.map((t) => [t.path, [t.r, t.alpha, t.scale]]))).toEqual(c.matched);
    // what is written to the file chooses the same modules again
    const again = describeTargets({ ...camel(c.options), targetModules: table.targetModules }, infos(c.model));
    expect(again.targets.map((t) => t.path)).toEqual(table.targets.map((t) => t.path));
  });

  it("accepts numbered lists at the root of the model", () => {
    const table = describeTargets({ targetModules: ["x"], layersToTransform: [1] }, infos("wide"));
    expect(table.targets.map((t) => t.path)).toEqual(["a.1.x", "b.blocks.1.x"]);
  });

  it("counts parameters, prints the table and names linear layers that stay as they are", () => {
    const table = describeTargets({ r: 4, loraAlpha: 8, targetModules: ["q_proj", "up_proj"], useRslora: true }, infos("llama"));
    expect(table.parameters).toBe(3 * 4 * (8 + 8) + 3 * 4 * (8 + 12));
    expect(table.notAdapted).toContain("model.layers.2.self_attn.v_proj");
    expect(table.notAdapted).toContain("lm_head");
    expect(table.toString()).toBe(
      [
        "module                               count  r  alpha  scale  parameters  matched by",
        "model.layers.{0-2}.self_attn.q_proj      3  4      8      4         192  q_proj",
        "model.layers.{0-2}.mlp.up_proj           3  4      8      4         240  up_proj",
        "6 modules, 432 parameters",
        "linear layers not adapted: model.layers.{0-2}.self_attn.k_proj, model.layers.{0-2}.self_attn.v_proj, model.layers.{0-2}.self_attn.o_proj, model.layers.{0-2}.mlp.gate_proj, model.layers.{0-2}.mlp.down_proj, lm_head",
      ].join("\n"),
    );
  });

  it("names near modules when nothing matches", () => {
    const message = (options: LoraOptions): string => {
      try {
        describeTargets(options, infos("llama"));
      } catch (error) {
        if (error instanceof ConfigError) return error.message;
      }
      return "no ConfigError";
    };
    expect(message({ targetModules: ["qproj"] })).toContain("q_proj");
    expect(message({ targetModules: "q_proj" })).toContain("must match a whole path, such as model.layers.0.self_attn.q_proj");
    expect(message({ targetModules: ["all-linear"] })).toContain("not in a list");
    expect(message({ targetModules: ["q_proj"], excludeModules: ["q_proj"] })).toContain("exclude_modules");
    expect(message({ targetModules: ["self_attn"] })).toContain("which cannot be adapted");
    expect(message({})).toContain("no default");
  });

  it("warns about patterns that choose nothing", () => {
    const warnings = (options: LoraOptions): string => describeTargets({ targetModules: ["q_proj"], ...options }, infos("llama")).warnings.join("\n");
    expect(warnings({ rankPattern: { q_proj: 2 } })).toBe("");
    expect(warnings({ rankPattern: { v_proj: 2 } })).toContain('rank_pattern: "v_proj" changes nothing');
    expect(warnings({ alphaPattern: { ".*": 2, q_proj: 3 } })).toContain('alpha_pattern: "q_proj" changes nothing');
  });

  it("warns about an alpha that looks multiplied by sqrt(r) already", () => {
    const warnings = (options: LoraOptions): readonly string[] => describeTargets({ targetModules: ["q_proj"], ...options }, infos("llama")).warnings;
    expect(warnings({ r: 256, loraAlpha: 256, useRslora: true })).toEqual([
      "use_rslora with r 256 and lora_alpha 256 gives the scale 16. If lora_alpha is meant for rsLoRA, keep it; " +
        "if it was already multiplied by sqrt(r) for plain LoRA (scale 1), set use_rslora to false, or lora_alpha to 16.",
    ]);
    expect(warnings({ r: 256, loraAlpha: 256 })).toEqual([]);
    expect(warnings({ r: 256, loraAlpha: 16, useRslora: true })).toEqual([]);
    expect(warnings({ r: 8, loraAlpha: 64, useRslora: true })).toEqual([]);
    expect(warnings({ r: 8, loraAlpha: 64, useRslora: true, rankPattern: { q_proj: 64 } })).toHaveLength(1);
  });

  it("takes a rule for the scale, and rsLoRA equals LoRA with alpha sqrt(r)", () => {
    const scale = (options: LoraOptions): number => describeTargets({ targetModules: ["q_proj"], ...options }, infos("llama")).targets[0].scale;
    expect(scale({ r: 9, loraAlpha: 3, scaling: (alpha, r) => alpha * r })).toBe(27);
    for (const r of [1, 4, 16, 256]) expect(scale({ r, loraAlpha: 3, scaling: "rslora" })).toBe(scale({ r, loraAlpha: 3 * Math.sqrt(r) }));
    expect(() => scale({ scaling: () => Number.NaN })).toThrow(ConfigError);
  });

  it("keeps every scale when a rule is written as alpha / r", () => {
    const rule = fc.constantFrom<LoraOptions["scaling"]>("lora", "rslora", (alpha, r) => alpha * Math.cbrt(r));
    const pattern = fc.dictionary(fc.constantFrom("q_proj", "layers.1.*", ".*mlp.*"), fc.integer({ min: 1, max: 9 }));
    fc.assert(
      fc.property(rule, pattern, pattern, fc.integer({ min: 1, max: 64 }), (scaling, rankPattern, alphaPattern, r) => {
        const config = loraConfig({ r, scaling, rankPattern, alphaPattern, targetModules: ["q_proj", "up_proj", "embed_tokens"] });
        const before = describeTargets(config, infos("llama"));
        const after = describeTargets(bakeScale(config, before.targets), infos("llama"));
        after.targets.forEach((t, i) => {
          expect([t.path, t.r]).toEqual([before.targets[i].path, before.targets[i].r]);
          expect(Math.abs(t.scale / before.targets[i].scale - 1)).toBeLessThan(2 ** -51);
        });
        expect(after.warnings.filter((w) => w.startsWith("alpha_pattern"))).toEqual([]);
      }),
    );
  });
});

describe("fan_in_fan_out", () => {
  it("is read off the layers: said where it does nothing, and written for PEFT where all layers are Conv1D", () => {
    expect(describeTargets({ targetModules: ["q_proj"], fanInFanOut: true }, infos("llama")).warnings.join()).toContain("fan_in_fan_out: true changes nothing");
    const of = (targetModules: readonly string[]): boolean => lora(new Rich(), { targetModules }).fileConfig().fanInFanOut;
    expect([of(["c_fc"]), of(["q_proj"]), of(["c_fc", "q_proj"])]).toEqual([true, false, false]);
  });
});
