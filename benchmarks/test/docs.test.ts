/**
 * Every TypeScript block of docs/*.md, README.md and the README.md of each package runs, has no type error, and prints what the page says; figures of GPUs are measured ones.
 * `DOCS_UPDATE=1 npx vitest run benchmarks/test` writes what was printed into the pages' output blocks.
 */
import { existsSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { format } from "node:util";
import ts from "typescript";
import { afterAll, beforeEach, describe, expect, it, test, vi } from "vitest";
import { createReference, setDevice } from "@adjoint/tensor";
import { type Snippet, shorter, snippetsOf, updated } from "./snippets.ts";

const root = resolve(import.meta.dirname, "..", ".."), made = join(root, ".cache", `docs-${process.pid}`);
const pages = ["README.md", ...readdirSync(join(root, "docs")).filter((f) => f.endsWith(".md")).sort().map((f) => `docs/${f}`), ...readdirSync(join(root, "packages")).sort().map((name) => `packages/${name}/README.md`).filter((page) => existsSync(join(root, page)))];
const read = (page: string): string => readFileSync(join(root, page), "utf8");
const fileOf = (s: Snippet): string => join(made, `${s.page.replaceAll(/\W/g, "-")}-${s.line}.ts`);
const snippets = pages.flatMap((page) => snippetsOf(page, read(page)));
const trained = existsSync(join(root, "packages", "tiny", "model", "config.json"));

mkdirSync(made, { recursive: true });
// a snippet's relative imports are written as seen from docs/
for (const s of snippets) writeFileSync(fileOf(s), `${(s.slow ? shorter(s.code) : s.code).replaceAll('from "../packages/', 'from "../../packages/')}\nexport {};\n`);
afterAll(() => { rmSync(made, { recursive: true, force: true }); });
beforeEach(() => { setDevice(createReference()); });

describe("pages", () => {
  it("have no type error in their snippets", () => {
    const { config } = ts.readConfigFile(join(root, "tsconfig.base.json"), (f) => ts.sys.readFile(f));
    const { options } = ts.parseJsonConfigFileContent(config, ts.sys, root);
    const program = ts.createProgram(snippets.map(fileOf), { ...options, noEmit: true, allowImportingTsExtensions: true, isolatedDeclarations: false, declaration: false });
    const problems = snippets.flatMap((s) => {
      const source = program.getSourceFile(fileOf(s));
      return source === undefined ? [`${s.page}:${s.line} was not read`] : [...program.getSyntacticDiagnostics(source), ...program.getSemanticDiagnostics(source)].map((d) => `${s.page}:${s.line}: ${ts.flattenDiagnosticMessageText(d.messageText, "\n")}`);
    });
    expect(problems).toEqual([]);
  }, 120_000);

  it("link to files that exist", () => {
    const broken = pages.flatMap((page) => [...read(page).matchAll(/\]\((?!https?:|#)([^)#]+)[^)]*\)/g)].map((m) => [page, m[1]]).filter(([, to]) => !existsSync(join(root, page, "..", to))));
    expect(broken).toEqual([]);
  });

  it("name files that exist", () => {
    const broken = pages.flatMap((page) => [...read(page).matchAll(/`((?:packages|scripts|benchmarks|docs|fixtures)\/[\w./-]+\.(?:ts|mjs|md|py))`/g)].map((m) => [page, m[1]]).filter(([, to]) => !existsSync(join(root, to))));
    expect(broken).toEqual([]);
  });
});

test("README prints no GPU figure that was not measured", () => {
  const [, section = ""] = /^## On a GPU\n([^]*?)^## /m.exec(read("README.md")) ?? [], result = join(root, "benchmarks", "gpu", "result.md"), measured = existsSync(result) ? readFileSync(result, "utf8") : "";
  expect(section.length).toBeGreaterThan(500);
  const figures = [...section.matchAll(/[\d.,]+ ?(?:[TGM]?FLOP\/s|[TGM]i?B\/s|tok(?:ens)?\/s|tokens a second|% of|times (?:as|faster|slower))/g)].map((m) => m[0]);
  expect(figures.filter((f) => !measured.includes(f))).toEqual([]);
});

const running = snippets.filter((s) => !s.typesOnly);
for (const page of new Set(running.map((s) => s.page))) describe(page, () => {
  for (const s of running.filter((x) => x.page === page)) {
    it.skipIf(s.slow && !trained)(`line ${s.line} runs${s.prints === null ? "" : " and prints what it says"}`, async () => {
      const printed: string[] = [];
      const log = vi.spyOn(console, "log").mockImplementation((...args: unknown[]) => { printed.push(...format(...args).split("\n")); });
      try { await import(pathToFileURL(fileOf(s)).href); } finally { log.mockRestore(); }
      if (process.env.DOCS_UPDATE === "1") {
        // positions may have moved with earlier updates of the page: find the snippet again
        const now = snippetsOf(page, read(page)).find((x) => x.code === s.code);
        if (now !== undefined) writeFileSync(join(root, page), updated(read(page), now, printed));
      } else if (s.prints !== null && !s.slow) expect(printed.map((l) => l.trimEnd())).toEqual(s.prints.map((l) => l.trimEnd()));
    }, 280_000);
  }
});
