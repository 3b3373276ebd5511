/**
 * `npm run evidence`: for each promise of the project, the command or test that shows it, run now, with its result.
 * `-- --list` prints the table without running; `-- --slow` also runs rows of more than a minute; `-- TEXT` picks rows that contain TEXT.
 */
import { existsSync, rmSync } from "node:fs";
import { join, relative } from "node:path";
import { rows } from "./evidence.table.mjs";
import { adapters } from "./gpu.mjs";
import { node, npmCli, readJson, root, say, seconds } from "./lib.mjs";
import { setup } from "./setup.mjs";

const args = process.argv.slice(2);
if (args.includes("--help")) {
  say(`usage: npm run evidence [-- --list] [-- --slow] [-- TEXT]
  --list  prints each promise and its command, and runs nothing
  --slow  also runs what takes more than a minute
  TEXT    only promises that contain it`);
  process.exit(0);
}
const stranger = args.find((each) => each.startsWith("--") && !["--list", "--slow"].includes(each));
if (stranger !== undefined) {
  say(`evidence: there is no option ${stranger}; see npm run evidence -- --help`);
  process.exit(2);
}
const list = args.includes("--list");
const slow = args.includes("--slow");
const text = args.find((each) => !each.startsWith("--"));
const chosen = rows.filter(({ line }) => text === undefined || line.toLowerCase().includes(text.toLowerCase()));
const results = join(root, ".cache", `evidence-${process.pid}.json`);

/** How a row can be repeated by hand. */
function shown({ test, command }) {
  if (test !== undefined) return `npm test -- ${test[0]}${test[1] === undefined ? "" : ` -t "${test[1]}"`}`;
  return command === undefined ? "(nothing yet)" : `${command[0] === "npm" ? "" : "node "}${command.join(" ")}`;
}

/** The suite's files that the rows name, run once; each row then looks up its tests. */
async function suite() {
  const files = [...new Set(chosen.filter(({ test, slow: long }) => test !== undefined && (slow || long !== true)).map(({ test }) => test[0]))];
  if (files.length === 0) return [];
  await node([join(root, "node_modules", "vitest", "vitest.mjs"), "run", "--reporter=json", `--outputFile.json=${results}`, ...files], { quiet: true });
  if (!existsSync(results)) throw new Error("the test suite gave no results");
  const found = readJson(results).testResults.flatMap(({ name, assertionResults }) =>
    assertionResults.map(({ fullName, status }) => ({ file: relative(root, name).replaceAll("\\", "/"), fullName, status })),
  );
  rmSync(results, { force: true });
  return found;
}

function judgeTest([file, name], tests) {
  const own = tests.filter((each) => each.file.includes(file) && (name === undefined || each.fullName.includes(name)));
  const count = (status) => own.filter((each) => each.status === status).length;
  if (own.length === 0) return { ok: false, text: "no such test" };
  if (count("failed") > 0) return { ok: false, text: `${count("failed")} of ${own.length} tests fail` };
  if (count("passed") === 0) return { ok: undefined, text: `not run on ${process.platform}-${process.arch}` };
  return { ok: true, text: `${count("passed")} ${count("passed") === 1 ? "test passes" : "tests pass"}${count("passed") < own.length ? `, ${own.length - count("passed")} not run here` : ""}` };
}

/** Whether this machine has a GPU that is not a program, asked once. */
let asked;
const hasGpu = () => (asked ??= adapters({}).then(({ found }) => found.some((line) => !/software|swiftshader|llvmpipe/i.test(line))));

async function judgeCommand({ command, expect, look = false }) {
  const begun = performance.now();
  const [program, ...rest] = command;
  const { code, output } = await node([program === "npm" ? npmCli() : join(root, program), ...rest], { quiet: true });
  const last = output.trim().split("\n").at(-1) ?? "";
  const matched = expect === undefined ? undefined : new RegExp(expect, "m").exec(output);
  if (code !== 0) return { ok: false, text: `exit code ${code}: ${last}` };
  if (matched === null) return { ok: false, text: `printed nothing like ${expect}` };
  const text = `${matched?.[0].trim() ?? last} (${seconds(begun)})`;
  return look ? { ok: undefined, text: `for a reader to judge: ${text}` } : { ok: true, text };
}

async function main() {
  await setup("test");
  const tests = list ? [] : await suite();
  const count = { shown: 0, failed: 0, missing: 0, skipped: 0 };
  for (const row of chosen) {
    let verdict;
    if (row.test === undefined && row.command === undefined) verdict = { kind: "missing", text: "not shown by anything yet" };
    else if (row.gpu === true && !list && !(await hasGpu())) verdict = { kind: "skipped", text: "not run (needs a GPU; this machine has none)" };
    else if (list || (row.slow === true && !slow)) verdict = { kind: "skipped", text: list ? "not run (--list)" : "not run (more than a minute; -- --slow)" };
    else {
      const { ok, text: said } = row.test !== undefined ? judgeTest(row.test, tests) : await judgeCommand(row);
      verdict = { kind: ok === undefined ? "skipped" : ok ? "shown" : "failed", text: said };
    }
    count[verdict.kind]++;
    console.log(`${{ shown: "ok     ", failed: "FAILED ", missing: "MISSING", skipped: "not run" }[verdict.kind]}  ${row.line}\n         $ ${shown(row)}\n         ${verdict.text}`);
  }
  console.log(`\n${chosen.length} lines: ${count.shown} shown, ${count.failed} failed, ${count.missing} missing, ${count.skipped} not run`);
  process.exitCode = count.failed === 0 ? 0 : 1;
}

try {
  await main();
} catch (error) {
  say(`evidence: ${error.message}`);
  process.exitCode = 1;
}
