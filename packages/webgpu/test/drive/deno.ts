/** Deno's entry: the arguments are one JSON of what to drive; the last line printed is the verdicts. */
import { drive, type Wanted } from "./main.ts";

declare const Deno: { readonly args: readonly string[]; exit(code: number): never };

const verdicts = await drive(JSON.parse(Deno.args[0]) as Wanted, (line) => { console.error(line); });
console.log(JSON.stringify(verdicts));
Deno.exit(0);
