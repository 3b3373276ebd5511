/** The `adjoint` command as a function. */
export { commands, main } from "./cli.ts";
export type { Answer, Command } from "./command.ts";
export { processTerminal, type Terminal } from "./terminal.ts";
