/** Child processes that hold one system each, and rounds in which they take turns. */
import { type ChildProcess, fork } from "node:child_process";
import { loadavg } from "node:os";

/** How a system is started. */
export interface Start { readonly name: string; readonly file: string; readonly args: readonly string[] }
export interface Said { readonly name: string; readonly version: string; readonly note: string }
/** What a task's first runs said. */
export type Info = Readonly<Record<string, number | string | readonly number[]>>;

interface Reply { readonly id: number; readonly error?: string; readonly system?: Said; readonly info?: Info; readonly inner?: number; readonly median?: number; readonly count?: number; readonly peak?: number }
const isReply = (x: unknown): x is Reply => typeof x === "object" && x !== null && "id" in x && typeof x.id === "number";

/** One system in its own process; it computes only while it answers. */
export class System {
  readonly name: string;
  readonly #child: ChildProcess;
  readonly #waiting = new Map<number, { done: (r: Reply) => void; fail: (e: Error) => void }>();
  #next = 1;
  private constructor(name: string, child: ChildProcess) { this.name = name; this.#child = child; }

  /** Starts the process; resolves with what it says about itself. */
  static async start({ name, file, args }: Start): Promise<[System, Said]> {
    const child = fork(file, [...args], { stdio: ["ignore", "inherit", "inherit", "ipc"], execArgv: [] });
    const system = new System(name, child), first = system.#reply(0);
    child.on("message", (m) => {
      if (!isReply(m)) return;
      const w = system.#waiting.get(m.id);
      system.#waiting.delete(m.id);
      if (m.error !== undefined) w?.fail(new Error(`${name}: ${m.error}`));
      else w?.done(m);
    });
    child.on("exit", (code) => { for (const w of system.#waiting.values()) w.fail(new Error(`${name} ended with exit code ${code}`)); });
    const { system: said } = await first;
    if (said === undefined) throw new Error(`${name} did not say what it is`);
    return [system, said];
  }
  #reply(id: number): Promise<Reply> { return new Promise((done, fail) => this.#waiting.set(id, { done, fail })); }
  #ask(message: Readonly<Record<string, unknown>>): Promise<Reply> {
    const id = this.#next++, reply = this.#reply(id);
    this.#child.send({ ...message, id });
    return reply;
  }
  async prepare(task: string, dump: string): Promise<Info> { return (await this.#ask({ do: "prepare", task, dump })).info ?? {}; }
  /** Median milliseconds of a run over at least `seconds` seconds and `least` samples. */
  async go(task: string, seconds: number, least: number): Promise<{ median: number; count: number }> {
    const { median = NaN, count = 0 } = await this.#ask({ do: "go", task, seconds, least });
    return { median, count };
  }
  async end(task: string): Promise<void> { await this.#ask({ do: "end", task }); }
  /** Peak resident bytes of the process so far. */
  async peak(): Promise<number> { return (await this.#ask({ do: "memory" })).peak ?? NaN; }
  async leave(): Promise<void> {
    if (this.#child.exitCode !== null) return;
    const gone = new Promise((r) => this.#child.once("exit", r));
    await this.#ask({ do: "leave" }).catch(() => undefined);
    await gone;
  }
}

export const median = (xs: readonly number[]): number => {
  const s = [...xs].sort((a, b) => a - b), h = s.length >> 1;
  return s.length % 2 === 1 ? s[h] : (s[h - 1] + s[h]) / 2;
};

/** A task's medians by round, for each system, and the load average when each round began. */
export interface Measured { readonly rounds: ReadonlyMap<string, readonly number[]>; readonly load: readonly number[] }

/** In every round every system has its turn, in an order that rotates. Lines are told which process measures which task. */
export async function interleave(turns: readonly { readonly label: string; readonly system: System; readonly task: string }[], rounds: number, seconds: number, least: number): Promise<Measured> {
  const found = new Map<string, number[]>(turns.map(({ label }) => [label, []])), load: number[] = [];
  for (let r = 0; r < rounds; r++) {
    load.push(loadavg()[0]);
    for (let i = 0; i < turns.length; i++) {
      const { label, system, task } = turns[(i + r) % turns.length];
      found.get(label)?.push((await system.go(task, seconds, least)).median);
    }
  }
  return { rounds: found, load };
}
