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

/** What happened and with which values: fast-check keeps the first in `cause`. */
function told(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return error.cause instanceof Error ? `${error.cause.message}\n${error.message}` : error.message;
}

/** Runs every law, one after another; `tell` hears each failure as it happens, and that the work goes on. */
export async function suite(name: string, backend: Backend, options: ConformOptions, tell: (line: string) => void): Promise<Verdict> {
  const begun = performance.now(), { laws } = conform(backend, [...tensorSubjects, ...largeSubjects], options), failed: { law: string; message: string }[] = [], times: [number, string][] = [];
  for (const [i, law] of laws.entries()) {
    const start = performance.now();
    try {
      await law.check();
    } catch (error) {
      const message = told(error);
      failed.push({ law: law.name, message });
      tell(`${name}: ${law.name}\n  ${message.split("\n").slice(0, 12).join("\n  ")}`);
    }
    times.push([(performance.now() - start) / 1000, law.name]);
    if ((i + 1) % 50 === 0) tell(`${name}: ${i + 1} of ${laws.length} laws, ${((performance.now() - begun) / 1000).toFixed(0)} s`);
  }
  tell(`${name}: the slowest: ${times.sort(([a], [b]) => b - a).slice(0, 12).map(([time, law]) => `${law} ${time.toFixed(1)} s`).join(", ")}`);
  return { name, laws: laws.length, failed, seconds: (performance.now() - begun) / 1000 };
}
