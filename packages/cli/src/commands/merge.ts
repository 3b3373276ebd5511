/** `adjoint merge`: writes a model whose weights hold the adapter. */
import { modelFiles, node, readText, writeDirectoryAtomic } from "@adjoint/io";
import { ConfigError, type HostArray, isFloat } from "@adjoint/tensor";
import { defaultRecipe, mergeRecipe, type Recipe } from "@adjoint/train";
import type { Arguments } from "../arguments.ts";
import type { Answer, Command } from "../command.ts";
import { openAdapter, openDevice, openModel } from "../open.ts";
import { exists } from "../recipes.ts";
import type { Terminal } from "../terminal.ts";
import { resolveModel } from "@adjoint/models";

const keys: readonly (keyof Recipe)[] = ["model_name_or_path", "output_dir", "device", "threads", "wide"];

async function run(args: Arguments, terminal: Terminal): Promise<Answer> {
  const recipe = mergeRecipe(args.recipe), adapter = args.text("adapter") ?? args.positionals[0] ?? null, output = recipe.output_dir;
  if (adapter === null) throw new ConfigError("merge: the adapter is missing", { key: "adapter", value: null, fix: "give --adapter DIR" });
  if (output === null) throw new ConfigError("merge: where shall the model go?", { key: "output_dir", value: null, fix: "give --output-dir DIR" });
  await openDevice(recipe);
  const say = (text: string): void => { if (!args.flag("quiet")) terminal.err(`${text}\n`); };
  const { model, path } = await openModel(recipe.model_name_or_path, { tokenizer: false, say });
  const tuned = await openAdapter(model, adapter, say), untied = args.flag("untie");
  const merged = tuned.mergedWeights({ untied });
  const arrays = new Map<string, HostArray>();
  for (const [name, p] of Object.entries(model.parameters())) arrays.set(name, await p.host());
  for (const [name, sum] of merged) {
    const h = await sum.host();
    if (isFloat(sum.dtype) && !(await sum.data()).every(Number.isFinite)) throw new ConfigError(`${name} would not be finite after the merge`, { op: "merge", key: name, fix: "the adapter diverged: use an earlier checkpoint" });
    arrays.set(name, h);
  }
  const { join } = node().path, folder = await resolveModel(path);
  const files: Record<string, string> = {};
  for (const name of ["tokenizer.json", "tokenizer_config.json", "generation_config.json", "special_tokens_map.json", "chat_template.jinja"]) {
    const file = join(folder, name);
    if (await exists(file)) files[name] = await readText(file);
  }
  const apart = untied && model.config.tieWordEmbeddings;
  if (apart && !arrays.has("lm_head.weight")) arrays.set("lm_head.weight", await model.parameters()["model.embed_tokens.weight"].host());
  const config = { ...model.config.json, ...(apart ? { tie_word_embeddings: false } : {}) };
  await writeDirectoryAtomic(output, { ...modelFiles(arrays), "config.json": `${JSON.stringify(config, null, 2)}\n`, ...files });
  return { text: `${output}   ${merged.size} weights hold the adapter\n`, json: { model: output, base: path, adapter, merged: merged.size } };
}

export const merge: Command = {
  grammar: {
    name: "merge", positionals: ["[ADAPTER]"], keys, summary: "Adds an adapter into the weights of its base model and writes the result as a model folder.",
    flags: { adapter: { kind: "text", value: "DIR", help: "adapter folder, or the folder of a run" }, untie: { kind: "flag", help: "write embedding and head apart where the adapter changes one of two tied weights" } },
    examples: ["adjoint merge --adapter out/moby-dick --output-dir out/moby-dick-merged"],
  },
  defaults: defaultRecipe,
  run,
};
