/** `adjoint quantize`: writes a model with its linear layers as codes, as bitsandbytes or llama.cpp read them. */
import { writeDirectoryAtomic, writeFileAtomic } from "@adjoint/io";
import { ggufWithin, loadWeights, type QuantizeWeights, resolveModel, savedFiles, tokenizerAmong } from "@adjoint/models";
import { bytesOfQuantized, formats, isFormatName, type Quantized } from "@adjoint/quant";
import { bytesOf, ConfigError, sizeOf } from "@adjoint/tensor";
import { defaultRecipe, mergeRecipe, type Recipe } from "@adjoint/train";
import type { Arguments } from "../arguments.ts";
import type { Answer, Command } from "../command.ts";
import { companionFiles, modelPath } from "../open.ts";
import { checkOutput } from "../output.ts";
import { Progress } from "../progress.ts";
import { bytes, count, duration, type Terminal } from "../terminal.ts";

const keys: readonly (keyof Recipe)[] = ["model_name_or_path", "output_dir", "overwrite_output_dir"];
/** Formats that some file holds and that can be made. */
const writable: readonly string[] = ["nf4", "fp4", "int8", "q8_0", "q4_0", "mxfp4"];

/** Bytes of codes and scales in the file: GGUF's scales take less there than in memory. */
const stored = (q: Quantized): number => (q.format.scale === "f32" ? bytesOfQuantized(q) : q.codes.byteLength + q.scales.values.length * (q.format.scale === "f16" ? 2 : 1));

async function run(args: Arguments, terminal: Terminal): Promise<Answer> {
  const recipe = mergeRecipe(args.recipe), source = args.positionals[0] ?? recipe.model_name_or_path, output = recipe.output_dir, format = args.text("format") ?? "nf4", block = args.number("block"), begun = performance.now();
  if (output === null) throw new ConfigError("quantize: where shall the model go?", { key: "output_dir", value: null, fix: "give --out DIR, or --out FILE.gguf" });
  if (!isFormatName(format) || !writable.includes(format)) throw new ConfigError(`quantize: --format ${format}`, { key: "--format", value: format, fix: `use one of ${writable.join(", ")}` });
  const gguf = formats[format].scale !== "f32", alone = /\.gguf$/i.test(output), skip = args.text("skip");
  if (alone && !gguf) throw new ConfigError(`quantize: GGUF files hold no ${format}`, { key: "--format", value: format, fix: "use q8_0, q4_0 or mxfp4, or name a folder" });
  if (format !== "nf4" && format !== "fp4" && (block !== null || args.flag("double-quant"))) {
    throw new ConfigError(`quantize: files of ${format} have ${format === "int8" ? "one scale a row" : "blocks of 32"} and plain scales`, { key: block === null ? "--double-quant" : "--block", value: block ?? true, fix: "remove the flag, or use nf4 or fp4" });
  }
  const quantize: QuantizeWeights = { format, doubleQuant: args.flag("double-quant"), ...(block === null ? {} : { block }), ...(skip === null ? {} : { skip: skip.split(",").filter((name) => name !== "" && name !== "none") }) };
  await checkOutput("quantize", output, { inputs: [modelPath(source)], overwrite: recipe.overwrite_output_dir });
  const progress = new Progress(args.flag("quiet") ? { ...terminal, err: () => undefined } : terminal);
  const path = await ggufWithin(modelPath(source)), { config, weights } = await loadWeights(path, {
    quantize, onWeight: ({ name, done, all }) => { progress.part(done, all, `quantizing ${name}`); },
    onProgress: (p) => { progress.message(`downloading ${p.file}  ${Math.round((100 * p.bytes) / Math.max(1, p.size))} %`); },
  });
  progress.clear();
  progress.message(`writing ${output} ...`);
  const all = [...weights.values()], layers = all.flatMap((w) => ("codes" in w ? [w] : [])), numbers = (w: { readonly shape: readonly number[] }): number => sizeOf(w.shape), sum = <T>(list: readonly T[], f: (x: T) => number): number => list.reduce((n, x) => n + f(x), 0);
  const before = sum(all, (w) => numbers(w) * bytesOf(w.dtype)), own = sum(layers, stored), after = own + sum(all, (w) => ("codes" in w ? 0 : w.data.byteLength)), codes = sum(layers, numbers), parameters = sum(all, numbers);
  const beside = await companionFiles(/\.gguf$/i.test(path) ? path : await resolveModel(path)), files = savedFiles({ config }, weights, gguf ? "gguf" : "safetensors", output, { tokenizer: tokenizerAmong(beside) });
  if (alone) await writeFileAtomic(output, files["model.gguf"]);
  else await writeDirectoryAtomic(output, { ...files, ...beside });
  progress.clear();
  const seconds = (performance.now() - begun) / 1000;
  return {
    text: `${output}   ${format}, ${layers.length} layers, ${((8 * own) / codes).toFixed(3)} bits a weight   ${bytes(before)} -> ${bytes(after)}   ${duration(seconds)}, ${count(parameters / seconds / 1e6)} M weights a second\n`,
    json: { model: output, base: path, format, block: block ?? (format === "int8" ? "row" : formats[format].block), double_quant: args.flag("double-quant"), layers: layers.length, bits: (8 * own) / codes, bytes: { before, after }, parameters, seconds },
  };
}

export const quantizeCommand: Command = {
  grammar: {
    name: "quantize", positionals: ["[MODEL]"], keys, summary: "Writes a model with its linear layers as codes: a folder that transformers reads with bitsandbytes, or a GGUF file.",
    text: "One weight is in memory in full precision at a time. nf4, fp4 and int8 go into safetensors, q8_0, q4_0 and mxfp4 into GGUF. A model that is\nused here only may as well be quantized whenever it is loaded: finetune --load-in-4bit.",
    flags: {
      format: { kind: "text", help: `${writable.join(", ")} [nf4]` }, block: { kind: "number", help: "weights a scale [64 for nf4 and fp4; a row for int8]" }, "double-quant": { kind: "flag", help: "scales as 8-bit codes too" },
      skip: { kind: "text", value: "A,B", help: "linear layers that stay as they are, or none [lm_head]" },
    },
    examples: ["adjoint quantize HuggingFaceTB/SmolLM2-135M --format nf4 --double-quant --out models/smol-nf4", "adjoint quantize DIR --format q4_0 --out model.gguf"],
  },
  defaults: defaultRecipe,
  run,
};
