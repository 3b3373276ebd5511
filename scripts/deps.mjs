/**
 * Checks who may import whom (CONTRIBUTING, "the map of the house"): package directions, dependencies declared in package.json,
 * no run-time library in a core package, and no cycle of value imports between files.
 * Type-only imports are erased, so they count for directions but not for cycles.
 */
import { existsSync } from "node:fs";
import { builtinModules } from "node:module";
import { dirname, join, relative, resolve } from "node:path";
import { readFileSync } from "node:fs";
import { filesUnder, packages, root, say } from "./lib.mjs";

const { default: ts } = await import("typescript");

/** What each package may import from the workspace. Nothing points up. */
const allowed = {
  tensor: [],
  wasm: ["tensor"],
  webgpu: ["tensor"],
  autograd: ["tensor"],
  nn: ["tensor"],
  quant: ["tensor"],
  io: ["tensor"],
  optim: ["tensor", "quant"],
  lora: ["tensor", "nn", "quant", "io"],
  testing: ["tensor", "autograd"],
  models: ["tensor", "nn", "quant", "io", "wasm", "webgpu"],
  tiny: [],
  train: ["tensor", "autograd", "nn", "quant", "io", "optim", "lora", "models", "wasm", "webgpu"],
  cli: ["tensor", "autograd", "nn", "quant", "io", "optim", "lora", "models", "wasm", "webgpu", "train", "tiny"],
};
/** No run-time dependency besides each other. */
const core = ["tensor", "wasm", "webgpu", "autograd", "nn", "optim", "lora", "quant", "io"];
/** These run in pages as they are: no static import of a Node module. */
const pure = ["tensor", "autograd", "nn", "optim", "lora", "quant"];
/** Backends are loaded dynamically, so that a page or a GPU user does not carry them. */
const lazy = ["wasm", "webgpu"];
const lazyIn = ["models", "train", "cli"];

const problems = [];
const modules = packages();
const shortOf = new Map([...modules].map(([name, { short }]) => [name, short]));
const graph = new Map();
let files = 0;

for (const { folder, short, manifest } of modules.values()) {
  const may = allowed[short];
  if (may === undefined) {
    problems.push(`packages/${short} is not in the table of scripts/deps.mjs: say what it may import`);
    continue;
  }
  const dependencies = Object.keys(manifest.dependencies ?? {});
  const declared = new Set([...dependencies, ...Object.keys(manifest.peerDependencies ?? {})]);
  if (core.includes(short)) {
    for (const name of dependencies) if (!shortOf.has(name)) problems.push(`packages/${short}/package.json: a core package has no run-time dependency, found "${name}"`);
  }
  for (const name of dependencies) {
    const to = shortOf.get(name);
    if (to !== undefined && !may.includes(to)) problems.push(`packages/${short}/package.json: ${short} must not depend on ${to} (allowed: ${may.join(", ") || "nothing"})`);
  }
  for (const file of filesUnder(join(folder, "src"), ".ts")) {
    files++;
    const values = [];
    graph.set(file, values);
    for (const found of importsOf(file)) check(found, { file, short, may, declared, manifest, values });
  }
}

function check({ path, typeOnly, dynamic, line }, { file, short, may, declared, manifest, values }) {
  const where = `${relative(root, file).replaceAll("\\", "/")}:${line}`;
  if (path.startsWith(".")) {
    const to = resolve(dirname(file), path);
    if (!path.endsWith(".ts") && !path.endsWith(".json")) problems.push(`${where}: "${path}" must carry the .ts extension`);
    else if (!existsSync(to)) problems.push(`${where}: "${path}" does not exist`);
    else if (!to.startsWith(join(root, "packages", short, "src"))) problems.push(`${where}: "${path}" leaves the package; import it by name`);
    else if (!typeOnly && !dynamic) values.push(to);
    return;
  }
  if (path.startsWith("node:") || builtinModules.includes(path)) {
    if (!path.startsWith("node:")) problems.push(`${where}: write "node:${path}"`);
    if (pure.includes(short) && !dynamic && !typeOnly) problems.push(`${where}: ${short} runs in pages; "${path}" may only be imported dynamically`);
    return;
  }
  const [name] = /^(@[^/]+\/[^/]+|[^/]+)/.exec(path);
  const to = shortOf.get(name);
  if (name === manifest.name) problems.push(`${where}: a package imports its own files relatively, not as "${path}"`);
  else if (to !== undefined && !may.includes(to)) problems.push(`${where}: ${short} must not import ${to} (allowed: ${may.join(", ") || "nothing"})`);
  else if (!declared.has(name)) problems.push(`${where}: "${name}" is not in packages/${short}/package.json`);
  if (to !== undefined && lazy.includes(to) && lazyIn.includes(short) && !dynamic && !typeOnly) problems.push(`${where}: ${short} imports ${to} dynamically only`);
}

/** Every import, export-from and dynamic import with a literal path. */
function importsOf(file) {
  const source = ts.createSourceFile(file, readFileSync(file, "utf8"), ts.ScriptTarget.Latest, false, ts.ScriptKind.TS);
  const found = [];
  const add = (node, specifier, typeOnly, dynamic) => {
    if (specifier === undefined || !ts.isStringLiteral(specifier)) return;
    found.push({ path: specifier.text, typeOnly, dynamic, line: source.getLineAndCharacterOfPosition(node.getStart(source)).line + 1 });
  };
  const allTypes = (bindings) => bindings !== undefined && ts.isNamedImports(bindings) && bindings.elements.length > 0 && bindings.elements.every((e) => e.isTypeOnly);
  const visit = (node) => {
    if (ts.isImportDeclaration(node)) {
      const clause = node.importClause;
      add(node, node.moduleSpecifier, clause !== undefined && (clause.isTypeOnly || (clause.name === undefined && allTypes(clause.namedBindings))), false);
    } else if (ts.isExportDeclaration(node)) add(node, node.moduleSpecifier, node.isTypeOnly, false);
    else if (ts.isCallExpression(node) && node.expression.kind === ts.SyntaxKind.ImportKeyword) add(node, node.arguments[0], false, true);
    else if (ts.isImportTypeNode(node) && ts.isLiteralTypeNode(node.argument)) add(node, node.argument.literal, true, false);
    ts.forEachChild(node, visit);
  };
  visit(source);
  return found;
}

/** Strongly connected files (Tarjan): each group of more than one file is a cycle. */
function cycles() {
  const order = new Map();
  const low = new Map();
  const stack = [];
  const on = new Set();
  const found = [];
  const walk = (file) => {
    order.set(file, order.size);
    low.set(file, order.get(file));
    stack.push(file);
    on.add(file);
    for (const to of graph.get(file) ?? []) {
      if (!order.has(to)) {
        walk(to);
        low.set(file, Math.min(low.get(file), low.get(to)));
      } else if (on.has(to)) low.set(file, Math.min(low.get(file), order.get(to)));
    }
    if (low.get(file) !== order.get(file)) return;
    const group = stack.splice(stack.indexOf(file));
    for (const each of group) on.delete(each);
    if (group.length > 1 || (graph.get(file) ?? []).includes(file)) found.push(group);
  };
  for (const file of graph.keys()) if (!order.has(file)) walk(file);
  return found;
}

for (const group of cycles()) problems.push(`import cycle: ${group.map((file) => relative(root, file).replaceAll("\\", "/")).join(" -> ")}`);

for (const problem of problems) say(problem);
say(`deps: ${files} files in ${modules.size} packages, ${problems.length === 0 ? "directions hold, no cycle" : `${problems.length} problems`}`);
process.exitCode = problems.length === 0 ? 0 : 1;
