/** Type-aware lint and the import directions. `npm run lint -- --fix` repairs what can be repaired. */
import { join } from "node:path";
import { node, root } from "./lib.mjs";
import { setup } from "./setup.mjs";

await setup("test");
const files = process.argv.slice(2);
const lint = await node([join(root, "node_modules", "eslint", "bin", "eslint.js"), ...(files.some((f) => !f.startsWith("-")) ? [] : ["."]), "--max-warnings=0", ...files], { inherit: true });
const deps = await node([join(root, "scripts", "deps.mjs")], { inherit: true });
process.exitCode = lint.code || deps.code;
