/** The conformance suite on a software GPU; in the long form (ADJOINT_RUNS) with sizes around tiles and vectors too. */
import { conform, largeSubjects, tensorSubjects } from "@adjoint/testing";
import { describe, test } from "vitest";
import { adapters, nameOf, webgpu } from "../src/index.ts";

const long = process.env["ADJOINT_RUNS"], runs = Number(long ?? 3);
const [adapter] = await adapters().catch(() => []);
const backend = adapter === undefined ? null : await webgpu({ mode: "safe", allowSoftware: true });

describe.runIf(backend !== null)(`webgpu on ${adapter === undefined ? "no adapter" : nameOf(adapter)}`, () => {
  if (backend === null) return;
  const suite = conform(backend, long === undefined ? tensorSubjects : [...tensorSubjects, ...largeSubjects], { runs, graphs: Math.ceil(2.7 * runs) });
  for (const law of suite.laws) test(law.name, () => law.check(), 600_000);
});
