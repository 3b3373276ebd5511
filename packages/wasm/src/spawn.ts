/** Starts a thread on a worker source; the only file that knows Node. */
import { ConfigError } from "@adjoint/tensor";
import { workerSource } from "./control.ts";

export interface Thread {
  /** ends the thread, at the latest when the returned promise resolves */
  end(): Promise<void>;
}
/** Starts thread number `thread` of `threads`; `ended` is called when it is gone. */
export type Spawn = (memory: WebAssembly.Memory, thread: number, threads: number, ended: () => void) => Thread;

/** A spawner for this platform. @throws ConfigError where worker threads cannot be had */
export function spawner(): Spawn {
  const host: { process?: { getBuiltinModule?: (id: "node:worker_threads") => typeof import("node:worker_threads") | undefined } } = globalThis;
  const threads = host.process?.getBuiltinModule?.("node:worker_threads");
  if (threads === undefined) throw new ConfigError("wasm: threads need Node's worker_threads", { key: "threads", fix: "use threads: 1 here" });
  const { Worker } = threads;
  const source = `${workerSource}\nconst { workerData } = require("node:worker_threads");\nserve(workerData.memory, workerData.thread, workerData.threads);`;
  return (memory, thread, count, ended) => {
    const worker = new Worker(source, { eval: true, workerData: { memory, thread, threads: count }, execArgv: [], name: `adjoint-${thread}` });
    worker.on("error", () => { /* a worker reports through shared memory; its exit follows */ });
    worker.on("exit", ended);
    worker.unref();
    return { end: async () => { await worker.terminate(); } };
  };
}
