/**
 * The promises, in the order of the plan. A row is { line } and one of
 *   test: [file, words in the test's name]    looked up in one run of the suite
 *   command: [program, ...args], expect       run by itself; `expect` is what its output must contain
 * and `slow: true` where it takes more than a minute. A row with neither is printed as missing.
 */
export const rows = [
  // 1, 2: monorepo and the two commands
  { line: "Import directions hold and no file cycle exists", command: ["scripts/deps.mjs"], expect: "directions hold, no cycle" },
  { line: "Strict types over sources and tests", command: ["npm", "run", "-s", "typecheck"] },
  { line: "Type-aware lint", command: ["npm", "run", "-s", "lint"] },
  { line: "npm test does all set-up itself and ends within 10 minutes", command: ["npm", "test"], expect: "^all passed in .*", slow: true },
  { line: "npm run finetune needs at most 40 MB and starts within 60 s", command: ["scripts/footprint.mjs"], expect: "^footprint: .*", slow: true },
  { line: "The suite passes on Node 24 from the npm registry", command: ["scripts/node24.mjs"], expect: "node24: ok.*", slow: true },
  { line: "Packed tarballs install, import and carry correct types", command: ["scripts/pack.mjs"], expect: "pack: all packages.*", slow: true },
];
