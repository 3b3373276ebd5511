/** `adjoint eval`: mean next-token loss, and bits per byte where the data is text. */
import { baseOptions, defaultRecipe, evaluate, mergeRecipe, type Recipe } from "@adjoint/train";
import { ConfigError } from "@adjoint/tensor";
import type { Arguments } from "../arguments.ts";
import type { Answer, Command } from "../command.ts";
import { baseKeys, openAdapter, openData, openDevice, openMeasured, openModel, titleOf, tokenizerOf } from "../open.ts";
import { count, type Terminal } from "../terminal.ts";
import { Progress } from "../progress.ts";

const keys: readonly (keyof Recipe)[] = ["model_name_or_path", "tokenizer_name", ...baseKeys, "ids", "dataset_name", "max_length", "completion_only_loss", "assistant_only_loss", "per_device_eval_batch_size", "device", "threads", "wide"];

async function run(args: Arguments, terminal: Terminal): Promise<Answer> {
  const names = [...args.positionals, ...(args.recipe.dataset_name ?? [])];
  const recipe = mergeRecipe({ ...args.recipe, dataset_name: names });
  const { ids } = recipe, adapter = args.text("adapter");
  if (ids === null && names.length === 0) throw new ConfigError("eval: there is nothing to measure", { key: "dataset_name", value: null, fix: "give text (adjoint eval FILE.txt) or token ids (--ids FILE.json)" });
  const device = await openDevice(recipe), say = (text: string): void => { if (!args.flag("quiet")) terminal.err(`${text}\n`); };
  const progress = new Progress(args.flag("quiet") ? { ...terminal, err: () => undefined } : terminal);
  const { model, path, name } = await openModel(recipe.model_name_or_path, { tokenizer: ids === null ? "auto" : false, tokenizerName: ids === null ? recipe.tokenizer_name : null, base: baseOptions(recipe), say, progress });
  const subject = adapter === null ? model : await openAdapter(model, adapter, say);
  // a window is as long as the model has positions for, unless it is said how long
  const fitted = args.recipe.max_length === undefined ? { ...recipe, max_length: Math.min(recipe.max_length, model.config.maxPositionEmbeddings) } : recipe;
  const data = ids === null ? await openMeasured(names, fitted, tokenizerOf(model, path)) : (await openData(recipe, model, path)).data;
  const { loss, tokens, bitsPerByte } = await evaluate(subject, data, { model: adapter === null ? path : `${path} with ${adapter}`, batchSize: recipe.per_device_eval_batch_size, onProgress: (done, all) => { if (!args.flag("quiet")) progress.message(`measuring ${done}/${all} rows`); } });
  progress.clear();
  const title = ids ?? titleOf(names);
  const bits = bitsPerByte === null ? "" : `, ${bitsPerByte.toFixed(4)} bits per byte`;
  return {
    text: `${name}${adapter === null ? "" : ` with ${adapter}`} on ${title}: loss ${loss.toFixed(6)} nats${bits}, ${count(tokens)} tokens\n`,
    json: { loss, tokens, ...(bitsPerByte === null ? {} : { bits_per_byte: bitsPerByte, bytes: data.bytes }), model: path, adapter, data: title, device },
  };
}

export const evaluateCommand: Command = {
  grammar: {
    name: "eval", positionals: ["[DATA...]"], keys, summary: "Measures a model, with or without an adapter: mean next-token loss, and bits per byte of text.",
    flags: { adapter: { kind: "text", value: "DIR", help: "adapter folder, or the folder of a run" } },
    text: "A text is measured whole: every byte counts, each token is predicted once, in windows of max_length tokens or of all the positions that the model has, if these are fewer. Token ids are taken as they are: a row is one sample.",
    examples: ["adjoint eval notes.txt", "adjoint eval --model DIR --ids rows.json --json", "adjoint eval --adapter out/moby-dick moby-dick-test"],
  },
  defaults: defaultRecipe,
  run,
};
