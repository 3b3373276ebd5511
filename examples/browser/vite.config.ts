/** Builds on the packages' sources; with the two headers the page may share memory, and trains on several threads. */
import { fileURLToPath } from "node:url";
import { defaultClientConditions, type UserConfig } from "vite";

const headers = { "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp" };

const config: UserConfig = {
  root: fileURLToPath(new URL(".", import.meta.url)),
  base: "./",
  resolve: { conditions: ["@adjoint/source", ...defaultClientConditions] },
  worker: { format: "es" },
  build: { target: "es2022", chunkSizeWarningLimit: 1500 },
  server: { headers, fs: { allow: ["../.."] } },
  preview: { headers },
};
export default config;
