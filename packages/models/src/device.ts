/** The device that a model gets when nobody chose one: the WebAssembly backend. */
import { deviceChosen, setDevice } from "@adjoint/tensor";

let opening: Promise<void> | null = null;

/** Threads to use without being told: one a core, at most eight; one in a page (threads need a worker there) and in tests. */
function threads(): number {
  const { process } = globalThis as { process?: { getBuiltinModule?: (name: "node:os") => { availableParallelism(): number }; env?: Record<string, string | undefined> } };
  if (process?.getBuiltinModule === undefined || process.env?.["VITEST"] !== undefined) return 1;
  return Math.min(8, process.getBuiltinModule("node:os").availableParallelism());
}

/** Makes the WebAssembly backend the default device, unless one was chosen by `setDevice`. */
export function defaultDevice(): Promise<void> {
  if (deviceChosen()) return Promise.resolve();
  return (opening ??= (async () => {
    const { wasm } = await import("@adjoint/wasm");
    const device = await wasm({ threads: threads() });
    if (!deviceChosen()) setDevice(device);
  })());
}
