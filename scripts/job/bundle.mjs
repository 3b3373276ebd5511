/**
 * Bundles the `adjoint` command into .cache/adjoint/<hash of all sources>/ and prints the path of its entry as the last line.
 * Node 20 runs no TypeScript, so a checkout's commands run this bundle. `import.meta.url` keeps meaning the source file, so
 * that data beside the sources is found; a worker written as `new URL("./x.ts", import.meta.url)` becomes a bundle of its own.
 */
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync } from "node:fs";
import { createRequire } from "node:module";
import { basename, dirname, join, relative, resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { filesUnder, packages, root, seconds } from "../lib.mjs";

const modules = packages();
const cli = modules.get("adjoint");
if (cli === undefined) throw new Error("packages/cli is missing");
const entryOf = (dist) => dist.replace(/^\.\/dist\//, "src/").replace(/\.js$/, ".ts");
const entry = join(cli.folder, entryOf(cli.manifest.bin?.adjoint ?? "./dist/index.js"));
const hub = canResolve("@huggingface/hub", join(root, "packages", "models", "package.json"));

function canResolve(name, from) {
  try {
    createRequire(from).resolve(`${name}/package.json`);
    return true;
  } catch (error) {
    return error.code === "ERR_PACKAGE_PATH_NOT_EXPORTED";
  }
}

function contentHash() {
  const hash = createHash("sha256").update(root).update(String(hub));
  for (const file of [join(root, "pnpm-lock.yaml"), fileURLToPath(import.meta.url)]) hash.update(readFileSync(file));
  for (const { folder } of modules.values()) {
    for (const file of [join(folder, "package.json"), ...filesUnder(join(folder, "src"), "")]) hash.update(relative(root, file)).update(readFileSync(file));
  }
  return hash.digest("hex").slice(0, 16);
}

const cache = join(root, ".cache", "adjoint");
const hash = contentHash();
const made = join(cache, hash);
const outputName = (file) => relative(join(root, "packages"), file).replace(/\.ts$/, "").replaceAll(/[\\/]/g, "-").replaceAll("..", "");
const result = join(made, `${outputName(entry)}.js`);

if (!existsSync(result)) {
  const begun = performance.now();
  await bundle();
  dropOld();
  console.log(`setup: bundled the command in ${seconds(begun)}`);
}
console.log(result);

async function bundle() {
  const { build } = await import("esbuild");
  const draft = `${made}.${process.pid}.tmp`;
  mkdirSync(draft, { recursive: true });
  const entries = [entry];
  const done = new Set();
  try {
    // an entry's build can reveal workers, which are built in turn
    for (let next = entries.pop(); next !== undefined; next = entries.pop()) {
      if (done.has(next)) continue;
      done.add(next);
      await build({
        entryPoints: [{ in: next, out: outputName(next) }],
        outdir: draft,
        bundle: true,
        splitting: true,
        chunkNames: `${outputName(next)}.[hash]`,
        format: "esm",
        platform: "node",
        target: "node20.19",
        conditions: ["@adjoint/source"],
        nodePaths: [join(root, "scripts", "job", "node_modules")],
        external: hub ? [] : ["@huggingface/hub"],
        sourcemap: "linked",
        sourcesContent: false,
        legalComments: "none",
        logLevel: "error",
        banner: { js: `import { createRequire as __createRequire } from "node:module"; const require = __createRequire(import.meta.url);` },
        plugins: [workspace(), sources(entries)],
      });
    }
    try {
      renameSync(draft, made);
    } catch (error) {
      if (!existsSync(result)) throw error; // another process made it first: the same content
    }
  } finally {
    rmSync(draft, { recursive: true, force: true });
  }
}

/** `@adjoint/x` and `@adjoint/x/sub` are the sources named by the package's exports map, installed links or not. */
function resolveWorkspace({ path }) {
  const [, name, sub] = /^(@adjoint\/[^/]+|adjoint)(\/.*)?$/.exec(path) ?? [];
  const found = name === undefined ? undefined : modules.get(name);
  if (found === undefined) return undefined;
  const target = found.manifest.exports?.[`.${sub ?? ""}`];
  const source = typeof target === "string" ? target : target?.["@adjoint/source"];
  if (source === undefined) return { errors: [{ text: `${path} is not in the exports map of ${name}` }] };
  return { path: join(found.folder, source), sideEffects: sideEffects(found, source) };
}
function sideEffects({ manifest }, file) {
  return manifest.sideEffects === undefined || (Array.isArray(manifest.sideEffects) && manifest.sideEffects.includes(file));
}
function workspace() {
  return { name: "workspace", setup: (build) => void build.onResolve({ filter: /^(@adjoint\/|adjoint$)/ }, resolveWorkspace) };
}

/** Rewrites what depends on where a source file lies. */
function sources(entries) {
  const inside = join(root, "packages");
  return {
    name: "sources",
    setup(build) {
      build.onLoad({ filter: /\.ts$/ }, ({ path }) => {
        if (!path.startsWith(inside) || path.includes("node_modules")) return undefined;
        const text = readFileSync(path, "utf8");
        if (!text.includes("import.meta.url")) return undefined;
        const contents = text
          .replaceAll(/new URL\(\s*["'](\.{1,2}\/[^"']+\.ts)["']\s*,\s*import\.meta\.url\s*\)/g, (_, to) => {
            const file = resolve(dirname(path), to);
            entries.push(file);
            return `new URL("./${outputName(file)}.js", import.meta["url"])`;
          })
          .replaceAll("import.meta.url", JSON.stringify(pathToFileURL(path).href));
        return { contents, loader: "ts" };
      });
    },
  };
}

/** Keeps the five newest bundles; older ones could only belong to sources that changed since. */
function dropOld() {
  const all = readdirSync(cache).map((name) => ({ path: join(cache, name), time: statSync(join(cache, name)).mtimeMs }));
  all.sort((a, b) => b.time - a.time);
  for (const { path } of all.slice(5)) if (basename(path) !== hash) rmSync(path, { recursive: true, force: true });
}
