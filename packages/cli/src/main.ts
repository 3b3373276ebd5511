#!/usr/bin/env node
/** Entry of the installed `adjoint` command. */
import { main } from "./cli.ts";
import { processTerminal } from "./terminal.ts";

// a reader that went away (`adjoint generate ... | head`) is no error
process.stdout.on("error", (error: NodeJS.ErrnoException) => { process.exit(error.code === "EPIPE" ? 0 : 1); });
process.exitCode = await main(process.argv.slice(2), processTerminal());
