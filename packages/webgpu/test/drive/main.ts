/** What runs inside a page's worker and inside Deno: every law on the backends asked for, and a fine-tuning whose losses must agree. */
import type { Backend } from "@adjoint/tensor";
import { wasm } from "@adjoint/wasm";
import { webgpu } from "@adjoint/webgpu";
import { apart, curve } from "./curve.ts";
import { suite, type Verdict } from "./suite.ts";

export interface Wanted {
  /** such as "wasm 1", "wasm 2" (threads) and "webgpu" */
  readonly backends: readonly string[];
  /** draws a law; 0: no laws */
  readonly runs: number;
  /** steps of the fine-tuning; 0: none */
  readonly steps: number;
}

/** With more than one thread, every kernel is shared between them. */
const open = async (name: string): Promise<Backend> => {
  if (name === "webgpu") return webgpu({ gpu: navigator.gpu, mode: "safe", allowSoftware: true });
  const threads = Number(name.split(" ")[1]);
  return wasm({ threads, ...(threads > 1 ? { soloBelow: 1 } : {}) });
};

/** Runs all of it and resolves with what came of it. */
export async function drive({ backends, runs, steps }: Wanted, tell: (line: string) => void): Promise<Verdict[]> {
  const verdicts: Verdict[] = [];
  for (const name of backends) {
    const backend = await open(name);
    if (runs > 0) verdicts.push(await suite(name, backend, { runs, graphs: 5 * runs }, tell));
    // where a worker ends a little after it was told to, the new threads meet the old ones: several tries
    if (name === "wasm 2" && runs > 0) for (let i = 0; i < 4; i++) verdicts.push(await accident());
    await backend.close?.();
  }
  if (steps > 0) for (const name of backends) verdicts.push(await fineTuning(name, steps));
  return verdicts;
}

/** A worker that dies is an error at once, and the pool comes back. */
async function accident(): Promise<Verdict> {
  const begun = performance.now(), law = "a killed worker is an error, and later steps work", failed: { law: string; message: string }[] = [];
  const backend = await wasm({ threads: 2, soloBelow: 1 }), before = await curve(backend, 3), errors: string[] = [];
  await backend.killWorker(1);
  for (let i = 0; i < 100; i++) {
    try {
      const after = await curve(backend, 3);
      if (String(after) !== String(before)) failed.push({ law, message: `${after.join(" ")} after the accident, ${before.join(" ")} before` });
      break;
    } catch (error) {
      errors.push(error instanceof Error ? `${error.name}: ${error.message}` : String(error));
      await new Promise((wake) => setTimeout(wake, 50));
    }
  }
  if (errors.some((each) => !each.startsWith("DeviceError")) || errors.length > 90) failed.push({ law, message: errors.slice(0, 3).join("\n") });
  await backend.close();
  return { name: `wasm 2: ${law}`, laws: 1, failed, seconds: (performance.now() - begun) / 1000 };
}

/** The losses of a backend beside those of one thread of WebAssembly, which must be within 1e-3. */
async function fineTuning(name: string, steps: number): Promise<Verdict> {
  const begun = performance.now(), ours = await open(name), theirs = await open("wasm 1");
  const a = await curve(ours, steps), b = await curve(theirs, steps), difference = apart(a, b), law = `LoRA, ${steps} steps: losses agree with wasm`;
  const learned = a[steps - 1] < a[0] - 0.01 * steps;
  await ours.close?.();
  const failed = difference < 1e-3 && learned ? [] : [{ law, message: `${difference} apart; ${a.map((x) => x.toFixed(4)).join(" ")} and ${b.map((x) => x.toFixed(4)).join(" ")}` }];
  return { name: `${name}, ${law} (${difference.toExponential(1)})`, laws: 1, failed, seconds: (performance.now() - begun) / 1000 };
}
