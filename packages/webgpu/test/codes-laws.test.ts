/** Codes through the engine on a software GPU: laws of every backend, by small tiles (large ones take software seconds to compile). */
import { codeLaws } from "@adjoint/testing";
import { describe, test } from "vitest";
import { WebGpuBackend } from "../src/backend.ts";
import { adapters, nameOf } from "../src/index.ts";
import { Session } from "../src/session.ts";
import { lowerSmall } from "./codes.ts";

const long = process.env["ADJOINT_RUNS"], [adapter] = await adapters().catch(() => []);
const backend = adapter === undefined ? null : new WebGpuBackend(await Session.open({ mode: "safe", allowSoftware: true }), lowerSmall);
/** in the short form */
const some = /formula|Bᵀ|columns|gradients|copy/;

describe.runIf(backend !== null)(`webgpu on ${adapter === undefined ? "no adapter" : nameOf(adapter)}`, () => {
  if (backend === null) return;
  for (const law of codeLaws(backend, { runs: long === undefined ? 1 : 2, seed: Number(process.env["ADJOINT_SEED"] ?? 4) })) if (long !== undefined || some.test(law.name)) test(law.name, () => law.check(), 600_000);
});
