/** The `adjoint` command of a checkout: `npm run -s adjoint -- ARGS`. */
import { say } from "./lib.mjs";
import { command } from "./setup.mjs";

export async function adjoint(profile, args) {
  let entry;
  try {
    entry = await command(profile);
  } catch (error) {
    say(`adjoint: ${error.message}`);
    process.exit(1);
  }
  // npm starts scripts in the checkout; paths in the arguments belong to where the user is
  const from = process.env.INIT_CWD;
  if (from !== undefined && from !== "") process.chdir(from);
  process.argv = [process.argv[0], entry, ...args];
  await import(entry);
}

if (process.argv[1] !== undefined && process.argv[1].endsWith("adjoint.mjs")) await adjoint("run", process.argv.slice(2));
