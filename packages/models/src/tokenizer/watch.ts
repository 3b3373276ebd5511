/** Regular expressions from files that nobody vouches for: each runs in a worker thread, which is ended when it takes too long. */
import { FormatError } from "@adjoint/tensor";

/** What the worker does with one pattern: the string method, and its second argument. */
interface Request {
  readonly source: string;
  readonly flags: string;
  readonly text: string;
  readonly method: "match" | "matchAll" | "split" | "replaceAll";
  readonly content: string;
}

type Reply = readonly string[] | readonly (readonly [number, string])[] | string | null;

/** CommonJS text of the worker: answer each request, then wake the thread that waits. */
const workerSource = `
const { parentPort, workerData: { port, done } } = require("node:worker_threads");
port.on("message", ({ source, flags, text, method, content }) => {
  const pattern = new RegExp(source, flags);
  const reply = method === "match" ? text.match(pattern)
    : method === "matchAll" ? Array.from(text.matchAll(pattern), (m) => [m.index, m[0]])
    : method === "split" ? text.split(pattern)
    : text.replaceAll(pattern, content);
  port.postMessage(Array.isArray(reply) ? [...reply] : reply);
  Atomics.store(done, 0, 1);
  Atomics.notify(done, 0);
});
parentPort.unref?.();
`;

/** Runs patterns in one lazily started worker; a pattern that exceeds `limit` milliseconds ends the worker and throws. */
export class PatternWatch {
  private readonly file: string;
  private readonly limit: number;
  private channel: { ask(request: Request): Reply | undefined; end(): void } | undefined;

  constructor(file: string, limit = 5000) {
    this.file = file;
    this.limit = limit;
  }

  /** A regular expression that behaves like `pattern`, run under this watch. */
  guard(pattern: RegExp, written: string): RegExp {
    return new WatchedRegExp(pattern, (method, text, content) => {
      this.channel ??= this.start(written);
      const reply = this.channel.ask({ source: pattern.source, flags: pattern.flags, text, method, content });
      if (reply !== undefined) return reply;
      this.end();
      throw new FormatError(`${this.file}: the regular expression ${written} was stopped: it ran longer than ${this.limit / 1000} s on ${text.length} characters`, {
        file: this.file, key: "pattern.Regex", value: written, fix: "use a tokenizer with a published pattern, or rewrite this one without nested repetition" });
    });
  }

  /** Ends the worker; the next use starts a new one. */
  end(): void {
    this.channel?.end();
    this.channel = undefined;
  }

  private start(written: string): { ask(request: Request): Reply | undefined; end(): void } {
    const threads = typeof process === "undefined" ? undefined : process.getBuiltinModule?.("node:worker_threads");
    if (threads === undefined) {
      throw new FormatError(`${this.file}: the regular expression ${written} is not a published one, and only Node can run it under a watch`, {
        file: this.file, key: "pattern.Regex", value: written, fix: "use a tokenizer with a published pattern here, or tokenize in Node" });
    }
    const { port1, port2 } = new threads.MessageChannel();
    const done = new Int32Array(new SharedArrayBuffer(4));
    const worker = new threads.Worker(workerSource, { eval: true, workerData: { port: port2, done }, transferList: [port2], execArgv: [], stdout: true, stderr: true });
    worker.unref();
    port1.unref();
    return {
      ask: (request) => {
        Atomics.store(done, 0, 0);
        port1.postMessage(request);
        if (Atomics.wait(done, 0, 0, this.limit) === "timed-out") return undefined;
        const received: { message: Reply } | undefined = threads.receiveMessageOnPort(port1);
        return received?.message;
      },
      end: () => {
        port1.close();
        void worker.terminate();
      },
    };
  }
}

type Ask = (method: Request["method"], text: string, content: string) => Reply;

/** A RegExp whose string methods ask the watch instead of matching here. */
class WatchedRegExp extends RegExp {
  private readonly ask: Ask;

  constructor(pattern: RegExp, ask: Ask) {
    super(pattern.source, pattern.flags);
    this.ask = ask;
  }

  override [Symbol.match](text: string): RegExpMatchArray | null {
    const found = strings(this.ask("match", text, ""));
    return found.length === 0 ? null : Object.assign(found, { 0: found[0] });
  }

  override [Symbol.matchAll](text: string): ReturnType<RegExp[typeof Symbol.matchAll]> {
    const reply = this.ask("matchAll", text, "");
    const found: RegExpExecArray[] = [];
    for (const item of Array.isArray(reply) ? reply : []) {
      if (!Array.isArray(item)) continue;
      const pair: readonly unknown[] = item;
      const [index, match] = pair;
      if (typeof index === "number" && typeof match === "string") found.push(Object.assign([match], { 0: match, index, input: text }));
    }
    return found.values();
  }

  override [Symbol.split](text: string): string[] {
    return strings(this.ask("split", text, ""));
  }

  override [Symbol.replace](text: string, content: string | ((found: string, ...groups: string[]) => string)): string {
    if (typeof content !== "string") throw new TypeError("a watched pattern replaces by a string");
    const reply = this.ask("replaceAll", text, content);
    return typeof reply === "string" ? reply : text;
  }
}

const strings = (reply: Reply): string[] => (Array.isArray(reply) ? reply.filter((item) => typeof item === "string") : []);
