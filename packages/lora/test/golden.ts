/** Reads fixtures/data/<name>/golden.json. */
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

export const fixture = (path: string): string => fileURLToPath(new URL(`../../../fixtures/data/${path}`, import.meta.url));
export const golden = <T>(name: string): T => JSON.parse(readFileSync(fixture(`${name}/golden.json`), "utf8"));
