/** The `adjoint` command: finds the command, answers --help, prints results and errors. */
import { AdjointError, ConfigError } from "@adjoint/tensor";
import { nearest } from "@adjoint/lora";
import { globalFlags, help, parseArguments } from "./arguments.ts";
import type { Command } from "./command.ts";
import { combineCommand } from "./commands/combine.ts";
import { data } from "./commands/data.ts";
import { doctor } from "./commands/doctor.ts";
import { evaluateCommand } from "./commands/eval.ts";
import { explainCommand } from "./commands/explain.ts";
import { finetune, pretrain } from "./commands/finetune.ts";
import { generateCommand } from "./commands/generate.ts";
import { inspect } from "./commands/inspect.ts";
import { memoryCommand } from "./commands/memory.ts";
import { merge } from "./commands/merge.ts";
import { quantizeCommand } from "./commands/quantize.ts";
import { tuneCommand } from "./commands/tune.ts";
import { paint, type Terminal } from "./terminal.ts";
import { version } from "./version.ts";

export const commands: Readonly<Record<string, Command>> = {
  finetune, pretrain, eval: evaluateCommand, generate: generateCommand, merge, combine: combineCommand, inspect, explain: explainCommand, data, doctor, memory: memoryCommand, quantize: quantizeCommand, tune: tuneCommand,
};

function overview(): string {
  const lines = Object.entries(commands).map(([name, { grammar }]) => `  ${name.padEnd(10)} ${grammar.summary}`);
  return `adjoint ${version}: fine-tunes language models on the CPU and the GPU\n\nusage: adjoint COMMAND [flags]\n\n${lines.join("\n")}\n\nadjoint COMMAND --help tells the rest.\n`;
}

/** One clear message: what is wrong, where, and what to do; the stack only when asked for. */
export function describeError(error: unknown, verbose: boolean): string {
  if (!(error instanceof Error)) return String(error);
  if (verbose) return error.stack ?? error.message;
  return error instanceof AdjointError ? error.message : `${error.message}\n  fix: this is a defect of adjoint; --verbose shows where`;
}

const errorJson = (error: unknown): unknown => {
  if (!(error instanceof AdjointError)) return { error: { name: "Error", message: error instanceof Error ? error.message : String(error) } };
  const { file, key, value, fix } = error.details;
  return { error: { name: error.name, message: error.message, ...(file === undefined ? {} : { file }), ...(key === undefined ? {} : { key }), ...(value === undefined ? {} : { value }), ...(fix === undefined ? {} : { fix }) } };
};

/** Runs one command line (without the program's name) and returns the exit code. */
export async function main(argv: readonly string[], terminal: Terminal): Promise<number> {
  const [name = "--help", ...rest] = argv;
  const verbose = rest.includes("--verbose"), json = rest.includes("--json");
  try {
    if (name === "--help" || name === "-h" || name === "help") {
      const about = name === "help" && rest.length > 0 && Object.hasOwn(commands, rest[0]) ? commands[rest[0]] : undefined;
      terminal.out(about === undefined ? overview() : help(about.grammar, about.defaults));
      return 0;
    }
    if (name === "--version" || name === "-v" || name === "version") {
      terminal.out(`${version}\n`);
      return 0;
    }
    if (!Object.hasOwn(commands, name)) {
      const near = nearest(name, Object.keys(commands), 1)[0];
      throw new ConfigError(`there is no command "${name}"`, { key: "command", value: name, fix: near === undefined ? `commands: ${Object.keys(commands).join(", ")}` : `did you mean adjoint ${near}?` });
    }
    const command = commands[name];
    if (rest.some((word) => word === "--help" || word === "-h")) {
      terminal.out(help(command.grammar, command.defaults));
      return 0;
    }
    const args = parseArguments(rest, command.grammar);
    const answer = await command.run(args, terminal);
    const text = args.flag("json") ? `${JSON.stringify(answer.json)}\n` : answer.text;
    if (text !== "") terminal.out(text);
    return answer.code ?? 0;
  } catch (error) {
    terminal.err(`${paint(terminal).red("adjoint:")} ${describeError(error, verbose)}\n`);
    if (json) terminal.out(`${JSON.stringify(errorJson(error))}\n`);
    return 1;
  }
}
export { globalFlags };
