/** The conformance suite on a software GPU. */
import { conform } from "@adjoint/testing";
import { describe, test } from "vitest";
import { webgpu } from "../src/index.ts";

const backend = await webgpu({ mode: "safe", allowSoftware: true }).catch(() => null);

describe.runIf(backend !== null)("webgpu", () => {
  if (backend === null) return;
  const suite = conform(backend, undefined, { runs: 3, graphs: 8 });
  for (const law of suite.laws) test(law.name, () => law.check(), 120_000);
});
