/** What a command is: a grammar, defaults for its help, and a function that answers with a result. */
import type { Recipe } from "@adjoint/train";
import type { Arguments, Grammar } from "./arguments.ts";
import type { Terminal } from "./terminal.ts";

/** What a command has found: for people, and for machines. */
export interface Answer {
  /** standard output without --json */
  readonly text: string;
  /** standard output with --json */
  readonly json: unknown;
  /** exit code; 0 when left out */
  readonly code?: number;
}

export interface Command {
  readonly grammar: Grammar;
  /** defaults that its help shows */
  readonly defaults: Partial<Recipe>;
  run(args: Arguments, terminal: Terminal): Promise<Answer>;
}
