/** What the command says about itself and the machine. */
import { node } from "@adjoint/io";
import type { Arguments } from "./arguments.ts";
import type { OpenModel } from "./open.ts";

export const version = "0.1.0";

/** What run.json says besides the recipe: enough to repeat the run and to compare machines. */
export function about(command: string, args: Arguments, device: string, base: OpenModel, parameters: number): Readonly<Record<string, unknown>> {
  const { os } = node(), cpus = os.cpus();
  return {
    command, adjoint: version, node: process.versions.node, device_description: device, argv: args.words, given: args.recipe,
    machine: { platform: process.platform, arch: process.arch, cpu: cpus[0]?.model.trim() ?? "unknown", cores: cpus.length, memory_bytes: os.totalmem() },
    model: { path: base.path, model_type: base.model.config.modelType, parameters }, started: new Date().toISOString(),
  };
}
