/** `adjoint combine`: several adapters of one base as one adapter. */
import { combinationTypes, combine, type CombineOptions } from "@adjoint/lora";
import { ConfigError } from "@adjoint/tensor";
import { baseOptions, defaultRecipe, mergeRecipe, type Recipe } from "@adjoint/train";
import { node, writeDirectoryAtomic } from "@adjoint/io";
import type { Arguments } from "../arguments.ts";
import type { Answer, Command } from "../command.ts";
import { adapterFolder, baseKeys, modelPath, openAdapter, openDevice, openModel } from "../open.ts";
import { checkOutput } from "../output.ts";
import { Progress } from "../progress.ts";
import { count, type Terminal } from "../terminal.ts";

const keys: readonly (keyof Recipe)[] = ["model_name_or_path", "output_dir", "overwrite_output_dir", ...baseKeys, "seed", "device", "threads", "wide"];

/** One weight for each adapter; 1 each where none is given. */
function weightsOf(text: string | null, adapters: readonly string[]): readonly number[] {
  if (text === null) return adapters.map(() => 1);
  const parts = text.split(","), weights = parts.map((part) => (part.trim() === "" ? Number.NaN : Number(part)));
  if (weights.length !== adapters.length || !weights.every(Number.isFinite)) throw new ConfigError(`combine: --weights ${text} for ${adapters.length} adapters`, { key: "--weights", value: text, fix: `give ${adapters.length} numbers, such as ${adapters.map(() => "0.5").join(",")}` });
  return weights;
}

function optionsOf(args: Arguments, recipe: Recipe): CombineOptions {
  const type = combinationTypes.find((t) => t === (args.text("type") ?? "svd")), sign = args.text("majority-sign-method"), rank = args.number("svd-rank"), clamp = args.number("svd-clamp"), density = args.number("density");
  if (type === undefined) throw new ConfigError(`combine: --type ${String(args.text("type"))}`, { key: "--type", value: args.text("type"), fix: `use one of ${combinationTypes.join(", ")}` });
  if (sign !== null && sign !== "total" && sign !== "frequency") throw new ConfigError(`combine: --majority-sign-method ${sign}`, { key: "--majority-sign-method", value: sign, fix: "use total or frequency" });
  return {
    combinationType: type, seed: recipe.seed, ...(rank === null ? {} : { svdRank: rank }), ...(clamp === null ? {} : { svdClamp: clamp }), ...(density === null ? {} : { density }), ...(sign === null ? {} : { majoritySignMethod: sign }),
    ...(args.flag("peft-numbers") ? { compat: "peft" as const } : {}),
  };
}

async function run(args: Arguments, terminal: Terminal): Promise<Answer> {
  const recipe = mergeRecipe(args.recipe), paths = args.positionals, output = recipe.output_dir;
  if (paths.length === 0) throw new ConfigError("combine: which adapters?", { key: "ADAPTER", value: null, fix: "name their folders: adjoint combine A B --output-dir C" });
  if (output === null) throw new ConfigError("combine: where shall the adapter go?", { key: "output_dir", value: null, fix: "give --output-dir DIR" });
  const weights = weightsOf(args.text("weights"), paths), options = optionsOf(args, recipe);
  await checkOutput("combine", output, { inputs: [modelPath(recipe.model_name_or_path), ...(await Promise.all(paths.map(adapterFolder)))], overwrite: recipe.overwrite_output_dir });
  await openDevice(recipe);
  const say = (text: string): void => { if (!args.flag("quiet")) terminal.err(`${text}\n`); }, progress = new Progress(args.flag("quiet") ? { ...terminal, err: () => undefined } : terminal);
  const { model, path } = await openModel(recipe.model_name_or_path, { tokenizer: false, base: baseOptions(recipe), say, progress }), parts = [];
  for (const [i, name] of paths.entries()) parts.push({ name: node().path.normalize(name), adapter: await openAdapter(model, name, say), weight: weights[i] });
  const made = await combine(model, parts, options), ranks = made.targets.targets.map((t) => t.r), [low, high] = [Math.min(...ranks), Math.max(...ranks)];
  await writeDirectoryAtomic(output, await made.files(), { replaceAll: false });
  const rank = low === high ? `r ${low}` : `r ${low} to ${high}`;
  return {
    text: `${output}   ${parts.map((p) => `${p.weight} x ${p.name}`).join(" + ")}, ${options.combinationType}: ${rank}, ${count(made.targets.parameters)} parameters\n`,
    json: { adapter: output, base: path, parts: parts.map(({ name, weight }) => ({ adapter: name, weight })), type: options.combinationType, rank: { min: low, max: high }, parameters: made.targets.parameters },
  };
}

export const combineCommand: Command = {
  grammar: {
    name: "combine", positionals: ["ADAPTER..."], keys, summary: "Makes one adapter out of several of the same base, with weights; the result is plain LoRA in PEFT's files.",
    text: "Types: svd (best approximation of a rank), cat (exact, ranks add up), linear (factors), ties, dare_linear, dare_ties, magnitude_prune,\nand the last four with _svd. seed is that of dare's masks.",
    flags: {
      weights: { kind: "text", value: "X,Y", help: "one number for each adapter [1 each]" }, type: { kind: "text", value: "NAME", help: "how they are combined [svd]", aliases: ["combination-type"] },
      "svd-rank": { kind: "number", help: "rank of the svd forms [the largest of the parts]" }, "svd-clamp": { kind: "number", help: "quantile that limits the factors of the svd forms" },
      density: { kind: "number", help: "share of the numbers that pruning keeps" }, "majority-sign-method": { kind: "text", value: "total|frequency", help: "how ties elects signs [total]" },
      "peft-numbers": { kind: "flag", help: "the numbers of PEFT's add_weighted_adapter, where they differ" },
    },
    examples: ["adjoint combine out/a out/b --weights 0.7,0.3 --output-dir out/both", "adjoint combine out/a out/b --type ties --density 0.5 --output-dir out/ties"],
  },
  defaults: defaultRecipe,
  run,
};
