/** A device that cannot be read at once under every law: answers stay on it, numbers arrive later, nothing else changes. */
import { createReference } from "@adjoint/tensor";
import { describe, test } from "vitest";
import { conform, tensorSubjects } from "../src/index.ts";

const runs = Number(process.env["ADJOINT_RUNS"] ?? 6);

describe("asynchronous reference", () => {
  const backend = createReference({ name: "asynchronous reference", fuse: true, arena: true, sync: false });
  const { laws } = conform(backend, tensorSubjects, { runs: 2, graphs: runs * 10, seed: Number(process.env["ADJOINT_SEED"] ?? 1), column: "fused reference" });
  test.each(laws.filter((law) => law.kind === "values" || law.subject.startsWith("random")).map((law) => [law.name, law] as const))("%s", (_, law) => law.check(), 180_000);
});
