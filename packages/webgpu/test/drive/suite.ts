/** The laws of one backend without a test runner: for pages and for Deno. */
import type { Backend } from "@adjoint/tensor";
import { type ConformOptions, conform, largeSubjects, tensorSubjects } from "@adjoint/testing";

/** What came of the laws of one backend. */
export interface Verdict {
  readonly name: string;
  readonly laws: number;
  readonly failed: readonly { readonly law: string; readonly message: string }[];
  readonly seconds: number;
}

/** Runs every law, one after another; `tell` hears each failure as it happens, and that the work goes on. */
export async function suite(name: string, backend: Backend, options: ConformOptions, tell: (line: string) => void): Promise<Verdict> {
  const begun = performance.now(), { laws } = conform(backend, [...tensorSubjects, ...largeSubjects], options), failed: { law: string; message: string }[] = [];
  for (const [i, law] of laws.entries()) {
    try {
      await law.check();
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      failed.push({ law: law.name, message });
      tell(`${name}: ${law.name}\n  ${message.split("\n").slice(0, 12).join("\n  ")}`);
    }
    if ((i + 1) % 50 === 0) tell(`${name}: ${i + 1} of ${laws.length} laws, ${((performance.now() - begun) / 1000).toFixed(0)} s`);
  }
  return { name, laws: laws.length, failed, seconds: (performance.now() - begun) / 1000 };
}
