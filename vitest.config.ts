/** Tests run on source (the `@adjoint/source` condition), one forked process a file: native bindings and thread pools dislike workers. */
import { defineConfig } from "vitest/config";

const conditions = ["@adjoint/source", "module", "node", "development|production"];

export default defineConfig({
  resolve: { conditions },
  ssr: { resolve: { conditions, externalConditions: ["@adjoint/source", "node"] } },
  test: {
    pool: "forks",
    include: ["packages/*/test/**/*.test.ts", "benchmarks/test/**/*.test.ts", "examples/test/**/*.test.ts"],
    maxWorkers: 2,
    testTimeout: 30_000,
    hookTimeout: 60_000,
    teardownTimeout: 10_000,
  },
});
