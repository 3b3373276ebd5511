/** Type-checks sources and tests of all packages as one program. */
import { join } from "node:path";
import { node, root } from "./lib.mjs";
import { setup } from "./setup.mjs";

await setup("test");
const { code } = await node([join(root, "node_modules", "typescript", "bin", "tsc"), "-p", root, ...process.argv.slice(2)], { inherit: true });
process.exitCode = code;
