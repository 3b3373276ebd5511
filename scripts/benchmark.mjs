/**
 * `npm run benchmark -- speed [--rounds 3 ...]` `-- memory`, `-- predict`, `-- findings`, `-- qlora`, `-- quant`, `-- codecs`, `-- codebooks`, `-- optimizers`, `-- updates`, `-- adapters`, `-- pictures` and `-- gpu`: see
 * benchmarks/README.md. Bundles the benchmark (Node 20 runs no TypeScript) and installs what nothing else needs: the rivals for
 * `speed` and `gpu`, from benchmarks/rivals, and what draws for `pictures`, from benchmarks/pictures.
 */
import { copyFileSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { pathToFileURL } from "node:url";
import { node, npmCli, root, run, say, seconds } from "./lib.mjs";
import { setup } from "./setup.mjs";

const folder = join(root, "benchmarks"), rivals = join(folder, "rivals"), pictures = join(folder, "pictures"), out = join(root, ".cache", "benchmarks");
const kinds = { speed: ["speed/main.ts", "speed/adjoint.ts"], memory: ["memory/main.ts"], findings: ["findings/main.ts"], gpu: ["gpu/main.ts", "gpu/adjoint.ts"], predict: ["memory/predict.ts"], qlora: ["findings/qlora.ts"], quant: ["quant/main.ts"], codecs: ["quant/codecs.ts"], codebooks: ["quant/codebooks.ts"], updates: ["updates/main.ts"], adapters: ["adapters/main.ts"], pictures: ["pictures/main.ts"], optimizers: ["findings/optimizers.ts"] };

/** npm installs a folder's packages from their own lock file, once. */
async function installFrom(place, what, without) {
  const stamp = join(place, "node_modules", ".adjoint-installed.json"), wanted = readFileSync(join(place, "package-lock.json"), "utf8");
  if (existsSync(stamp) && readFileSync(stamp, "utf8") === wanted) return;
  const begun = performance.now();
  say(`benchmark: installing ${what} ...`);
  const { code, output } = await run(process.execPath, [npmCli(), "ci", "--ignore-scripts", "--prefer-offline", "--no-audit", "--no-fund"], { cwd: place, quiet: true });
  if (code !== 0) throw new Error(`${what} could not be installed${without}\n${output.trim()}`);
  writeFileSync(stamp, wanted);
  say(`benchmark: installed in ${seconds(begun)}`);
}

/** `import.meta.url` of the packages that carry data keeps meaning the source file. */
const ownAddress = {
  name: "own-address",
  setup(build) {
    build.onLoad({ filter: /[\\/]packages[\\/]tiny[\\/]src[\\/][^\\/]*\.ts$/ }, ({ path }) => ({
      contents: readFileSync(path, "utf8").replaceAll("import.meta.url", JSON.stringify(pathToFileURL(path).href)), loader: "ts",
    }));
  },
};

async function bundle(kind) {
  const { build } = await import("esbuild");
  const made = join(out, `${kind}-${process.pid}`);
  mkdirSync(made, { recursive: true });
  await build({
    entryPoints: kinds[kind].map((file) => join(folder, file)), outdir: made, bundle: true, format: "esm", platform: "node", target: "node20.19",
    conditions: ["@adjoint/source"], sourcemap: "inline", sourcesContent: false, legalComments: "none", logLevel: "error",
    external: ["@huggingface/hub", "webgpu"], plugins: [ownAddress],
    banner: { js: `import { createRequire as __createRequire } from "node:module"; const require = __createRequire(import.meta.url);` },
  });
  writeFileSync(join(made, "package.json"), '{ "type": "module" }\n');
  return made;
}

async function main() {
  const [kind, ...args] = process.argv.slice(2);
  if (!(kind in kinds)) throw new Error(`usage: npm run benchmark -- ${Object.keys(kinds).join(" | ")} [options], see benchmarks/README.md`);
  await setup("test");
  const systems = args.find((a) => a.startsWith("--systems="))?.slice(10) ?? (args.includes("--systems") ? args[args.indexOf("--systems") + 1] : "jax-js");
  if (kind === "speed" && /jax|tfjs/.test(systems)) await installFrom(rivals, "the rivals", "; --systems adjoint needs none");
  if (kind === "pictures" || (kind === "qlora" && args.includes("--picture"))) await installFrom(pictures, "what draws", "");
  const made = await bundle(kind), rivalless = [];
  try {
    if (kind === "gpu") {
      if (/jax|tfjs/.test(systems)) {
        try {                                     // a rival that cannot be had is one line of the table
          await installFrom(rivals, "the rivals", "");
          await (await import("../benchmarks/rivals/gpu/bundle.mjs")).bundleRivals(made);
        } catch (error) {
          say(`benchmark: ${error.message}`);
          rivalless.push("--no-rivals", error.message.split("\n")[0]);
        }
      }
      copyFileSync(join(folder, "gpu", "torch_child.py"), join(made, "torch_child.py"));
      const at = args.indexOf("--pack");
      if (at >= 0) {
        if (args[at + 1] === undefined) throw new Error("--pack wants a folder");
        const { pack } = await import("../benchmarks/gpu/pack.mjs");
        pack(made, args[at + 1], { from: root, vulkan: join(root, ".cache", "swiftshader", "libvulkan.so.1"), say });
        return;
      }
    }
    const extra = kind === "speed" ? ["--children", made, "--rivals", rivals] : kind === "gpu" ? ["--children", made] : kind === "qlora" ? ["--drawing", pictures] : kind === "pictures" ? ["--drawing", pictures, ...(args.includes("--out") ? [] : ["--out", join(root, "docs", "pictures")])] : [];
    // memory: garbage is collected before a look, V8's nursery, which it sizes by mood, keeps one size, and what compiler threads
    // freed goes back to one arena of the C library instead of one for each thread
    const memory = kind === "memory", flags = memory ? ["--expose-gc", "--max-semi-space-size=1"] : ["--enable-source-maps"];
    const { code } = await node([...flags, join(made, basename(kinds[kind][0], ".ts") + ".js"), ...args, ...extra], { inherit: true, env: memory ? { MALLOC_ARENA_MAX: "1" } : {} });
    process.exitCode = code;
  } finally {
    rmSync(made, { recursive: true, force: true });
  }
}

try {
  await main();
} catch (error) {
  say(`benchmark: ${error.message}`);
  process.exitCode = 1;
}
