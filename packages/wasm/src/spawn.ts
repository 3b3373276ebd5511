/** Starts a thread on a worker source; the only file that knows Node's threads from a page's. */
import { ConfigError } from "@adjoint/tensor";
import { workerSource } from "./control.ts";

export interface Thread {
  /** ends the thread, at the latest when the returned promise resolves */
  end(): Promise<void>;
}
/** How threads are started on this platform. */
export interface Spawner {
  /** threads begin only when the caller gives way to its event loop (pages) */
  readonly late: boolean;
  /** Starts thread number `thread` of `threads`, which meet by the words at address `meeting`; `ended` is called when it is gone. */
  start(memory: WebAssembly.Memory, thread: number, threads: number, meeting: number, ended: () => void): Thread;
}

interface Platform {
  readonly process?: { getBuiltinModule?: (id: "node:worker_threads") => typeof import("node:worker_threads") | undefined };
  readonly Worker?: typeof globalThis.Worker;
  readonly crossOriginIsolated?: boolean;
}

/** Why there can be no second thread here, with the fix; or null where there can. */
function obstacle({ process, Worker, crossOriginIsolated }: Platform): { readonly why: string; readonly fix: string } | null {
  if (process?.getBuiltinModule?.("node:worker_threads") !== undefined) return null;
  if (Worker === undefined) return { why: "this platform starts no workers", fix: "use threads: 1 here" };
  if (crossOriginIsolated !== true) return { why: "a page shares memory between threads only when it is cross-origin isolated", fix: "serve it with Cross-Origin-Opener-Policy: same-origin and Cross-Origin-Embedder-Policy: require-corp, or use threads: 1" };
  try {
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 1, 0);
  } catch {
    return { why: "the page's own thread may not wait for others", fix: "train inside a Web Worker, or use threads: 1" };
  }
  return null;
}

/** Whether `wasm({ threads })` can have more than one thread here: in Node, and inside a worker of a cross-origin isolated page. */
export const hasThreads = (): boolean => obstacle(globalThis) === null;

/** A spawner for this platform. @throws ConfigError where worker threads cannot be had */
export function spawner(): Spawner {
  const found = obstacle(globalThis), platform: Platform = globalThis;
  if (found !== null) throw new ConfigError(`wasm: no threads: ${found.why}`, { key: "threads", fix: found.fix });
  const threads = platform.process?.getBuiltinModule?.("node:worker_threads");
  return threads === undefined ? pageThreads : nodeThreads(threads);
}

function nodeThreads({ Worker }: typeof import("node:worker_threads")): Spawner {
  const source = `${workerSource}\nconst { workerData } = require("node:worker_threads");\nserve(workerData.memory, workerData.thread, workerData.threads, workerData.meeting);`;
  return {
    late: false,
    start(memory, thread, count, meeting, ended) {
      const worker = new Worker(source, { eval: true, workerData: { memory, thread, threads: count, meeting }, execArgv: [], name: `adjoint-${thread}` });
      worker.on("error", () => { /* a worker reports through shared memory; its exit follows */ });
      worker.on("exit", ended);
      worker.unref();
      return { end: async () => { await worker.terminate(); } };
    },
  };
}

const pageSource = `${workerSource}\nonmessage = ({ data }) => { serve(data.memory, data.thread, data.threads, data.meeting); close(); };`;
const pageThreads: Spawner = {
  late: true,
  start(memory, thread, threads, meeting, ended) {
    const url = URL.createObjectURL(new Blob([pageSource], { type: "text/javascript" }));
    const worker = new Worker(url, { name: `adjoint-${thread}` });
    worker.onerror = ended;
    worker.postMessage({ memory, thread, threads, meeting });
    return {
      end: async () => {
        worker.terminate();
        URL.revokeObjectURL(url);
        ended();
      },
    };
  },
};
