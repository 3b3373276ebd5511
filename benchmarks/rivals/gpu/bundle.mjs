/** One file of each WebGPU rival, so that the packed folder needs no npm: jax-rival.js and tfjs-rival.js. */
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));

/** Bundles the rivals, which must be installed, into the folder `made`. */
export async function bundleRivals(made) {
  const { build } = await import("esbuild");
  const { version } = JSON.parse(readFileSync(join(here, "..", "node_modules", "@jax-js", "jax", "package.json"), "utf8"));
  await build({
    entryPoints: { "jax-rival": join(here, "jax.mjs"), "tfjs-rival": join(here, "tfjs.mjs") }, outdir: made, bundle: true, format: "esm", platform: "node", target: "node20.19",
    // tfjs-core's build for Node registers no gradients: the one of modules does
    mainFields: ["module", "main"], conditions: ["@adjoint/source"], define: { JAX_VERSION: JSON.stringify(version) }, legalComments: "none", logLevel: "error", external: ["webgpu"],
    banner: { js: `import { createRequire as __createRequire } from "node:module"; const require = __createRequire(import.meta.url);` },
  });
}
