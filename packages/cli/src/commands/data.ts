/** `adjoint data FILE`: what training would see. */
import { loadTokenizer } from "@adjoint/models";
import * as tiny from "@adjoint/tiny";
import { ConfigError } from "@adjoint/tensor";
import { dataReport, defaultRecipe, formatDataReport, idsData, mergeRecipe, type Recipe } from "@adjoint/train";
import type { Arguments } from "../arguments.ts";
import type { Answer, Command } from "../command.ts";
import { openTokenizer, textOptions } from "../open.ts";
import { count, type Terminal } from "../terminal.ts";

const keys: readonly (keyof Recipe)[] = ["model_name_or_path", "tokenizer_name", "ids", "max_length", "packing", "packing_strategy", "completion_only_loss", "assistant_only_loss"];

async function run(args: Arguments, terminal: Terminal): Promise<Answer> {
  const recipe = mergeRecipe(args.recipe), [file] = args.positionals;
  if (recipe.ids !== null) {
    const data = await idsData(recipe.ids);
    return { text: `${recipe.ids}: ${count(data.samples.length)} rows, ${count(data.tokens)} tokens, ${count(data.predicted)} predicted, the longest row has ${data.longest}\n`, json: { file: recipe.ids, rows: data.samples.length, tokens: data.tokens, predicted: data.predicted, longest: data.longest } };
  }
  if (file === undefined) throw new ConfigError("data: the file is missing", { key: "file", fix: "write adjoint data FILE.jsonl" });
  const { tokenizer_name: name, model_name_or_path: base } = recipe, tokenizer = name !== null ? await loadTokenizer(name) : base === null ? await loadTokenizer(tiny.model) : await openTokenizer(base);
  const report = await dataReport(file, tokenizer, textOptions(recipe));
    return { text: `${formatDataReport(report, { color: terminal.colorOut, width: terminal.columns })}\n`, json: report };
}

export const data: Command = {
  grammar: {
    name: "data", positionals: ["FILE"], keys, flags: {}, summary: "Shows training data as training sees it: rows, token lengths, what is cut, duplicates, three rows token by token.",
    examples: ["adjoint data chats.jsonl --max-length 512", "adjoint data notes.txt --tokenizer-name DIR"],
  },
  defaults: defaultRecipe,
  run,
};
