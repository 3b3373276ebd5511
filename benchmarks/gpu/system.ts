/** One system of the benchmark: a process that is asked line by line, started when needed and started again after it died. */
import { type ChildProcess, spawn } from "node:child_process";
import { createInterface } from "node:readline";

export interface Hello { readonly system: string; readonly adapter: string; readonly software: boolean; readonly error?: string }
export interface ProfileRow { readonly label: string; readonly ms: number; readonly gflops: number; readonly gbytes: number; readonly count: number }
/** An answer: median milliseconds of a run, or why there are none; `first` is what all systems must agree on. */
export interface Result {
  readonly task: string; readonly ms?: number; readonly work: number; readonly unit: "bytes" | "flops" | "tokens" | ""; readonly bytes: number;
  readonly first?: readonly number[]; readonly error?: string; readonly lacks?: boolean; readonly profile?: readonly ProfileRow[];
}
export interface Question { readonly task: string; readonly seconds: number; readonly smoke: boolean; readonly scale: number; /** run the first steps only */ readonly check?: boolean }

interface Running { readonly child: ChildProcess; readonly lines: AsyncIterator<string>; readonly ended: Promise<never>; readonly heard: string[] }

export class System {
  readonly key: string;
  /** a library that is compared with in the same WebGPU: one process a task, tried with validation first */
  readonly rival: boolean;
  readonly #command: readonly [string, readonly string[]];
  readonly #patience: number;
  #running: Running | null = null;
  hello: Hello | null = null;

  constructor(key: string, command: readonly [string, readonly string[]], { rival, patience }: { readonly rival: boolean; readonly patience: number }) {
    this.key = key;
    this.rival = rival;
    this.#command = command;
    this.#patience = patience;
  }
  get running(): boolean { return this.#running !== null; }

  /** Starts the process; what it says about itself, or an error with its reason. */
  async start(extra: readonly string[] = []): Promise<Hello> {
    this.stop();
    const [program, args] = this.#command, child = spawn(program, [...args, ...extra], { stdio: ["pipe", "pipe", "pipe"] }), heard: string[] = [];
    child.stdin.on("error", () => undefined);                // it died: `ended` says so
    createInterface({ input: child.stderr }).on("line", (line) => { if (line.trim() !== "") { heard.push(line.trim()); heard.splice(0, heard.length - 3); } });
    const ended = new Promise<never>((_, fail) => {
      child.once("error", (e) => { fail(new Error("code" in e && e.code === "ENOENT" ? `there is no program ${program} here` : e.message)); });
      child.once("close", (code, signal) => { fail(new Error(`it ended with ${signal ?? `exit code ${code}`}${heard.length > 0 ? `: ${heard[heard.length - 1]}` : ""}`)); });
    });
    ended.catch(() => undefined);
    this.#running = { child, lines: createInterface({ input: child.stdout })[Symbol.asyncIterator](), ended, heard };
    const hello = await this.#next<Hello>();
    if (hello.error !== undefined) { this.stop(); throw new Error(hello.error); }
    return (this.hello = hello);
  }

  async #next<T>(): Promise<T> {
    const { lines, ended } = this.#running!, late: { timer?: ReturnType<typeof setTimeout> } = {};
    const silence = new Promise<never>((_, fail) => { late.timer = setTimeout(() => { fail(new Error(`no answer in ${this.#patience} s`)); }, 1000 * this.#patience); });
    try {
      for (;;) {
        const line = await Promise.race([lines.next().then((l) => (l.done === true ? ended : l)), ended, silence]);
        if (line.value.startsWith("{")) return JSON.parse(line.value) as T;
      }
    } catch (error) {
      this.stop();
      throw error;
    } finally { clearTimeout(late.timer); }
  }

  /** Asks; whatever goes wrong is a result with an error. */
  async ask(q: Question): Promise<Result> {
    try {
      if (this.#running === null) await this.start();
      this.#running!.child.stdin!.write(`${JSON.stringify(q)}\n`);
      return await this.#next<Result>();
    } catch (error) {
      return { task: q.task, work: 0, unit: "", bytes: 0, error: error instanceof Error ? error.message : String(error) };
    }
  }
  /** Ends the process, which gives back what it holds on the device. */
  stop(): void {
    this.#running?.child.kill("SIGKILL");
    this.#running = null;
  }
  /** Lets the process end by itself. */
  end(): void {
    this.#running?.child.stdin!.end();
    this.#running = null;
  }
}
