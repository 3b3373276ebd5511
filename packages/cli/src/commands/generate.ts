/** `adjoint generate`: continues a prompt; the text is the result, as it comes. */
import { generate, type GenerateOptions, type Message } from "@adjoint/models";
import { ConfigError } from "@adjoint/tensor";
import { baseOptions, defaultRecipe, mergeRecipe, type Recipe } from "@adjoint/train";
import type { Arguments } from "../arguments.ts";
import type { Answer, Command } from "../command.ts";
import { baseKeys, openAdapter, openDevice, openModel, tokenizerOf } from "../open.ts";
import { Progress } from "../progress.ts";
import type { Terminal } from "../terminal.ts";

const keys: readonly (keyof Recipe)[] = ["model_name_or_path", "tokenizer_name", ...baseKeys, "seed", "device", "threads", "wide"];

async function run(args: Arguments, terminal: Terminal): Promise<Answer> {
  const recipe = mergeRecipe(args.recipe), adapter = args.text("adapter");
  const given = args.positionals.join(" ") || (args.text("prompt") ?? "");
  if (given === "") throw new ConfigError("generate: the prompt is missing", { key: "prompt", fix: 'write adjoint generate "Call me"' });
  await openDevice(recipe);
  const say = (text: string): void => { if (!args.flag("quiet")) terminal.err(`${text}\n`); };
  const { model, path } = await openModel(recipe.model_name_or_path, { tokenizerName: recipe.tokenizer_name, base: baseOptions(recipe), say, progress: new Progress(args.flag("quiet") ? { ...terminal, err: () => undefined } : terminal) });
  const tokenizer = tokenizerOf(model, path);
  const subject = adapter === null ? model : (await openAdapter(model, adapter, say)).frozen();
  const messages: readonly Message[] = [{ role: "user", content: given }];
  const prompt = args.flag("chat") ? tokenizer.applyChatTemplate(messages, { addGenerationPrompt: true }) : given;
  const stream = !args.flag("json");
  const number = (flag: string): number | undefined => args.number(flag) ?? undefined;
  const options: GenerateOptions = {
    seed: recipe.seed, maxNewTokens: number("max-new-tokens") ?? 128, temperature: number("temperature") ?? 0.8, topP: number("top-p") ?? 1, topK: number("top-k") ?? 40,
    onToken: ({ text }) => { if (stream) terminal.out(text); },
  };
  if (stream && !args.flag("chat")) terminal.out(prompt);
  let said = 0;
  const text = await generate(subject, prompt, { ...options, onToken: (token) => { said += token.text.length; return options.onToken?.(token); } });
  return { text: `${text.slice(said)}\n`, json: { prompt, text, seed: recipe.seed, model: path, adapter } };
}

export const generateCommand: Command = {
  grammar: {
    name: "generate", positionals: ["PROMPT..."], keys, summary: "Continues a prompt. Equal arguments give equal text.",
    flags: {
      prompt: { kind: "text", help: "the prompt, where it begins with a dash" }, adapter: { kind: "text", value: "DIR", help: "adapter folder, or the folder of a run" },
      "max-new-tokens": { kind: "number", help: "at most so many tokens [128]", aliases: ["n"] }, temperature: { kind: "number", help: "0 takes the most likely token each time [0.8]" },
      "top-k": { kind: "number", help: "only the k most likely tokens [40]" }, "top-p": { kind: "number", help: "only the fewest tokens of this probability [1]" },
      chat: { kind: "flag", help: "the prompt is a user's message: use the tokenizer's chat template" },
    },
    examples: ['adjoint generate "Call me" --adapter out/moby-dick', 'adjoint generate --model HuggingFaceTB/SmolLM2-135M-Instruct --chat "Why is the sky blue?"'],
  },
  defaults: defaultRecipe,
  run,
};
