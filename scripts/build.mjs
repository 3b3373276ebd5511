/** Builds every package's `dist/` (JavaScript and declarations, file by file) from one TypeScript program. */
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";
import { filesUnder, node, packages, root, say, seconds } from "./lib.mjs";
import { setup } from "./setup.mjs";

export async function build() {
  await setup("test");
  const begun = performance.now();
  const out = join(root, ".cache", "build");
  rmSync(out, { recursive: true, force: true });
  const { code, output } = await node([join(root, "node_modules", "typescript", "bin", "tsc"), "-p", join(root, "tsconfig.build.json"), "--pretty", "false"], { quiet: true });
  if (code !== 0) throw new Error(`the build failed:\n${output.trim()}`);
  for (const { folder, short } of packages().values()) {
    const dist = join(folder, "dist");
    rmSync(dist, { recursive: true, force: true });
    if (!existsSync(join(out, short, "src"))) continue;
    mkdirSync(dist, { recursive: true });
    cpSync(join(out, short, "src"), dist, { recursive: true });
    // hand-written declarations are inputs to the compiler, which does not copy them
    for (const file of filesUnder(join(folder, "src"), ".d.ts")) cpSync(file, join(dist, relative(join(folder, "src"), file)));
    // workers are named by URL, which the compiler does not rewrite
    for (const file of filesUnder(dist, ".js")) {
      const text = readFileSync(file, "utf8");
      const moved = text.replaceAll(/(new URL\(\s*["']\.{1,2}\/[^"']+)\.ts(["']\s*,\s*import\.meta\.url\s*\))/g, "$1.js$2");
      if (moved !== text) writeFileSync(file, moved);
    }
  }
  say(`build: ${packages().size} packages in ${seconds(begun)}`);
}

if (process.argv[1]?.endsWith("build.mjs")) {
  try {
    await build();
  } catch (error) {
    say(error.message);
    process.exitCode = 1;
  }
}
