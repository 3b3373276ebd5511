/** `adjoint merge`: writes a model whose weights hold the adapter. */
import { writeDirectoryAtomic } from "@adjoint/io";
import { requantize, type RequantizeError } from "@adjoint/lora";
import { embeddingName, hostWeights, savedFiles, tokenizerAmong, type Weight } from "@adjoint/models";
import { dequantize, ggufTypeOfQuantized, quantizedOf } from "@adjoint/quant";
import { ConfigError, convertArray, type DType, type HostArray, isFloat } from "@adjoint/tensor";
import { baseOptions, defaultRecipe, mergeRecipe, type Recipe } from "@adjoint/train";
import type { Arguments } from "../arguments.ts";
import type { Answer, Command } from "../command.ts";
import { adapterFolder, baseKeys, companionFiles, modelPath, openAdapter, openDevice, openModel } from "../open.ts";
import { checkOutput } from "../output.ts";
import { Progress } from "../progress.ts";
import type { Terminal } from "../terminal.ts";
import { resolveModel } from "@adjoint/models";

const keys: readonly (keyof Recipe)[] = ["model_name_or_path", "output_dir", "overwrite_output_dir", ...baseKeys, "device", "threads", "wide"];

const rounded = ({ data, shape }: { readonly data: Float32Array; readonly shape: readonly number[] }, dtype: DType): HostArray => ({ dtype, shape, data: dtype === "f32" ? data : convertArray(data, "f32", dtype) });

async function run(args: Arguments, terminal: Terminal): Promise<Answer> {
  const recipe = mergeRecipe(args.recipe), adapter = args.text("adapter") ?? args.positionals[0] ?? null, output = recipe.output_dir, again = args.flag("requantize"), decode = args.flag("dequantize");
  if (adapter === null) throw new ConfigError("merge: the adapter is missing", { key: "adapter", value: null, fix: "give --adapter DIR" });
  if (output === null) throw new ConfigError("merge: where shall the model go?", { key: "output_dir", value: null, fix: "give --output-dir DIR" });
  if (again && decode) throw new ConfigError("merge: --requantize and --dequantize are both given", { key: "--requantize", fix: "choose one" });
  await checkOutput("merge", output, { inputs: [modelPath(recipe.model_name_or_path), await adapterFolder(adapter)], overwrite: recipe.overwrite_output_dir });
  await openDevice(recipe);
  const say = (text: string): void => { if (!args.flag("quiet")) terminal.err(`${text}\n`); }, progress = new Progress(args.flag("quiet") ? { ...terminal, err: () => undefined } : terminal);
  const { model, path } = await openModel(recipe.model_name_or_path, { tokenizer: false, base: baseOptions(recipe), say, progress });
  const tuned = await openAdapter(model, adapter, say), untied = args.flag("untie"), weights = model.weights();
  const codes = Object.entries(weights).find(([, w]) => quantizedOf(w) !== null)?.[0];
  if (codes === undefined && (again || decode)) throw new ConfigError(`merge: ${path} holds no codes`, { key: again ? "--requantize" : "--dequantize", fix: "remove the flag" });
  if (codes !== undefined && !again && !decode) {
    throw new ConfigError(`merge: ${path} holds codes (${codes})`, { key: "model_name_or_path", value: path, fix: "give the model that was quantized as --model to merge into full precision; or --dequantize, to write what the adapter was trained on, decoded; or --requantize, which rounds part of the adapter away" });
  }
  const readOnly = again ? Object.values(weights).map(quantizedOf).find((q) => q?.format.encodes === false) : undefined;
  if (readOnly) throw new ConfigError(`merge: ${path} holds ${readOnly.format.name}, which can be read but not made`, { key: "--requantize", value: readOnly.format.name, fix: "use --dequantize, then adjoint quantize" });
  const merged = tuned.mergedWeights({ untied }), arrays = new Map<string, Weight>(), errors: RequantizeError[] = [];
  let done = 0;
  for (const [name, w] of await hostWeights(weights)) {
    const sum = merged.get(name), numbers = await sum?.data();
    progress.part(++done, Object.keys(weights).length, `merging ${name}`);
    if (sum !== undefined && isFloat(sum.dtype) && numbers?.every(Number.isFinite) !== true) throw new ConfigError(`${name} would not be finite after the merge`, { op: "merge", key: name, fix: "the adapter diverged: use an earlier checkpoint" });
    if (!("codes" in w)) arrays.set(name, (await sum?.host()) ?? w);
    else if (decode) arrays.set(name, rounded({ data: numbers === undefined ? dequantize(w) : Float32Array.from(numbers), shape: w.shape }, w.dtype));
    else if (numbers === undefined) arrays.set(name, w);
    else {
      const { quantized, error } = requantize(w, Float32Array.from(numbers), name);
      arrays.set(name, quantized);
      errors.push(error);
    }
  }
  for (const [name, sum] of merged) if (!arrays.has(name)) arrays.set(name, await sum.host());        // a head that was tied
  progress.clear();
  const files = await companionFiles(/\.gguf$/i.test(path) ? path : await resolveModel(path)), apart = untied && model.config.tieWordEmbeddings;
  if (apart && !arrays.has("lm_head.weight")) arrays.set("lm_head.weight", await model.parameters()[embeddingName(model.config)].host());
  const config = { ...model.config, ...(apart ? { tieWordEmbeddings: false } : {}), json: { ...model.config.json, ...(apart ? { tie_word_embeddings: false } : {}) } };
  const gguf = [...arrays.values()].some((w) => "codes" in w && ggufTypeOfQuantized(w) !== null);
  await writeDirectoryAtomic(output, { ...savedFiles({ config }, arrays, gguf ? "gguf" : "safetensors", output, { tokenizer: tokenizerAmong(files) }), ...files });
  const worst = errors.reduce<RequantizeError | null>((a, b) => (a === null || b.ofDelta > a.ofDelta ? b : a), null), mean = (f: (e: RequantizeError) => number): number => errors.reduce((n, e) => n + f(e), 0) / errors.length;
  const lost = worst === null ? "" : `requantized: rounding is ${(100 * mean((e) => e.relative)).toFixed(2)} % of the weights and ${mean((e) => e.ofDelta).toPrecision(2)} times what the adapter adds (worst ${worst.ofDelta.toPrecision(2)}, ${worst.name})${mean((e) => e.ofDelta) > 1 ? "; most of the adapter is rounded away: merge into full precision instead" : ""}\n`;
  return { text: `${output}   ${merged.size} weights hold the adapter\n${lost}`, json: { model: output, base: path, adapter, merged: merged.size, ...(errors.length === 0 ? {} : { requantized: errors }) } };
}

export const merge: Command = {
  grammar: {
    name: "merge", positionals: ["[ADAPTER]"], keys, summary: "Adds an adapter into the weights of its base model and writes the result as a model folder.",
    flags: {
      adapter: { kind: "text", value: "DIR", help: "adapter folder, or the folder of a run" }, untie: { kind: "flag", help: "write embedding and head apart where the adapter changes one of two tied weights" },
      dequantize: { kind: "flag", help: "a base of codes: write the decoded weights with the adapter, in the precision they had" }, requantize: { kind: "flag", help: "a base of codes: quantize the sum again, and say what that loses" },
    },
    examples: ["adjoint merge --adapter out/moby-dick --output-dir out/moby-dick-merged", "adjoint merge --model DIR-nf4 --adapter out/run --requantize --output-dir out/merged-nf4"],
  },
  defaults: defaultRecipe,
  run,
};
