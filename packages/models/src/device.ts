/** The device that a model gets when nobody chose one: the WebAssembly backend. */
import { deviceChosen, setDevice } from "@adjoint/tensor";

let opening: Promise<void> | null = null;

/** Threads to use without being told: one a core, at most eight; one in tests, and in a page outside an isolated worker. */
function threads(possible: boolean): number {
  const { process, navigator } = globalThis as { process?: { getBuiltinModule?: (name: "node:os") => { availableParallelism(): number }; env?: Record<string, string | undefined> }; navigator?: { hardwareConcurrency?: number } };
  if (!possible || process?.env?.["VITEST"] !== undefined) return 1;
  return Math.min(8, process?.getBuiltinModule?.("node:os").availableParallelism() ?? navigator?.hardwareConcurrency ?? 1);
}

/** Makes the WebAssembly backend the default device, unless one was chosen by `setDevice`. */
export function defaultDevice(): Promise<void> {
  if (deviceChosen()) return Promise.resolve();
  return (opening ??= (async () => {
    const { wasm, hasThreads } = await import("@adjoint/wasm");
    const device = await wasm({ threads: threads(hasThreads()) });
    if (!deviceChosen()) setDevice(device);
  })());
}
