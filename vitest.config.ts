/**
 * Tests run on source (the `@adjoint/source` condition), one forked process a file: native bindings and thread pools dislike
 * workers. The forks inherit an environment in which WebGPU finds a software GPU, unless one was chosen (VK_DRIVER_FILES).
 */
import { defineConfig } from "vitest/config";
import { swiftshader } from "./scripts/gpu.mjs";

const conditions = ["@adjoint/source", "module", "node", "development|production"];
if (process.env["VK_DRIVER_FILES"] === undefined) Object.assign(process.env, swiftshader());

export default defineConfig({
  resolve: { conditions },
  ssr: { resolve: { conditions, externalConditions: ["@adjoint/source", "node"] } },
  test: {
    pool: "forks",
    include: ["packages/*/test/**/*.test.ts", "benchmarks/test/**/*.test.ts", "examples/test/**/*.test.ts"],
    setupFiles: ["scripts/seed.mjs"],
    maxWorkers: 2,
    testTimeout: 30_000,
    hookTimeout: 60_000,
    teardownTimeout: 10_000,
  },
});
