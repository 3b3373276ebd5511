/** Who watches the watchmen: each mutant must break a law, and the unharmed reference none. */
import { createReference } from "@adjoint/tensor";
import { describe, expect, test } from "vitest";
import { type Mutant, conform, mutants } from "../src/index.ts";

const options = { runs: 60, graphs: 250, length: 12, seed: 1 };
const fused = () => createReference({ name: "fused reference", fuse: true, arena: true });

/** The first law that fails, or null. */
async function caughtBy({ backend = fused, subjects = () => [], laws }: Mutant): Promise<string | null> {
  const suite = conform(backend(), subjects(), options).laws;
  for (const kind of laws) for (const law of suite.filter((l) => l.kind === kind)) {
    try { await law.check(); } catch { return law.name; }
  }
  return null;
}

describe("mutants", () => {
  test.each(mutants.map((m) => [m.name, m] as const))("%s", async (_, mutant) => {
    expect(await caughtBy(mutant), "no law noticed").not.toBeNull();
  }, 180_000);

  test("the same laws pass on unharmed code", async () => {
    const kinds = [...new Set(mutants.flatMap((m) => m.laws))];
    expect(await caughtBy({ name: "none", laws: kinds, subjects: () => [] })).toBeNull();
  }, 180_000);
});
