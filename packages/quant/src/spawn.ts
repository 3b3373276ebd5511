/** Starts a thread from its text, in Node and in pages; and the fastest copy of bytes into memory that threads share. */

export interface Thread {
  end(): void;
}
interface Platform {
  readonly process?: { readonly versions?: Readonly<Record<string, string | undefined>>; getBuiltinModule?: { (id: "node:worker_threads"): typeof import("node:worker_threads") | undefined; (id: "node:buffer"): typeof import("node:buffer") | undefined } };
  readonly Worker?: typeof globalThis.Worker;
  readonly crossOriginIsolated?: boolean;
}
const platform = (): Platform => globalThis;

/**
 * Starts `serve(given)`, a function of `text`; null where there are no threads or none may share memory (pages that are not cross-origin isolated).
 *
 * The process may end while it runs.
 */
export function spawn(text: string, given: unknown): Thread | null {
  const { process, Worker: PageWorker, crossOriginIsolated } = platform(), threads = process?.getBuiltinModule?.("node:worker_threads");
  if (threads !== undefined) {
    const worker = new threads.Worker(`${text}\nserve(require("node:worker_threads").workerData);`, { eval: true, workerData: given, execArgv: [], name: "adjoint-quantize" });
    worker.on("error", () => { /* it answers no more, and its work is done by the caller */ });
    worker.unref();
    return { end: () => { void worker.terminate(); } };
  }
  if (PageWorker === undefined || crossOriginIsolated !== true) return null;
  const url = URL.createObjectURL(new Blob([`${text}\nonmessage = ({ data }) => serve(data);`], { type: "text/javascript" })), worker = new PageWorker(url, { name: "adjoint-quantize" });
  worker.postMessage(given);
  return { end: () => { worker.terminate(); URL.revokeObjectURL(url); } };
}

/**
 * Copies bytes into shared memory. V8's own copy goes word by word there, which takes twice the time; Node's `fill` with bytes is the system's copy.
 */
export function sharedCopy(): (to: Uint8Array, from: Uint8Array) => void {
  const { process } = platform(), { deno, bun } = process?.versions ?? {}, node = deno === undefined && bun === undefined ? process?.getBuiltinModule?.("node:buffer") : undefined;
  return node === undefined ? (to, from) => { to.set(from); } : (to, from) => { if (from.length > 0) node.Buffer.from(to.buffer, to.byteOffset, from.length).fill(from); };
}
