/** The modules of a file whose expression for them cannot be run here: its tensors name them. */
import { ConfigError, type HostArray } from "@adjoint/tensor";
import type { LoraConfig } from "../config/config.ts";
import { compilePattern } from "../targets/pattern.ts";
import { UnsupportedPattern } from "../targets/pattern-syntax.ts";
import { exactly, type ModuleInfo } from "../targets/targets.ts";
import { type KeyMapping, mapKey } from "./key-mapping.ts";
import { parseKey, PREFIX } from "./peft-keys.ts";

/** The error of an expression that Python runs and this does not; null for others. */
function unsupported(key: string, source: LoraConfig["targetModules"]): UnsupportedPattern | null {
  if (typeof source !== "string") return null;
  try {
    compilePattern(source, { key });
    return null;
  } catch (error) {
    if (error instanceof UnsupportedPattern) return error;
    throw error;
  }
}

/** What follows the path in the name of a low-rank tensor. */
const field = /\.(?:lora_|vera_lambda_)[^.]*(?:\.(?:weight|bias))?$/;

/**
 * A file's config with target_modules as this project can apply it: where it, or exclude_modules, has a look-around or a back-reference (which no matcher in
 * linear time has), the paths of the modules that the file's low-rank tensors belong to, with a warning. They are written back as paths too.
 * @throws ConfigError as `compilePattern` beside target_parameters, whose tensors have such names as well
 */
export function withInferredTargets(config: LoraConfig, tensors: ReadonlyMap<string, HostArray>, modules: readonly ModuleInfo[], file: string, keyMapping?: KeyMapping): { readonly config: LoraConfig; readonly warnings: readonly string[] } {
  const error = unsupported("target_modules", config.targetModules) ?? unsupported("exclude_modules", config.excludeModules);
  if (error === null) return { config, warnings: [] };
  if (config.targetParameters !== null && config.targetParameters.length > 0) throw error;
  const paths = new Set<string>();
  for (const key of tensors.keys()) {
    const parsed = parseKey(keyMapping === undefined ? key : mapKey(key, keyMapping));
    if (parsed.kind === "factor" && field.test(parsed.canonical)) paths.add(parsed.canonical.slice(PREFIX.length).replace(field, ""));
  }
  if (paths.size === 0) throw new ConfigError(`${file} holds no low-rank tensor`, { key: "target_modules", value: config.targetModules, fix: "copy the directory again from where the adapter was saved" });
  const [problem] = error.message.split("\n");
  return {
    config: { ...config, targetModules: exactly([...paths], modules), excludeModules: null, layersToTransform: null, layersPattern: null },
    warnings: [`${String(error.details.key)}: ${problem}; the ${paths.size} modules of the file's tensors are taken, and would be written by their paths`],
  };
}
