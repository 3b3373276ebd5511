/** The order of things: operations run at once while nothing waits, and in the order of their calls when something does. */

/** One operation. `wait` says what it needs first (or throws); `run` does it; `fail` tells whoever hoped for it. */
export interface Operation {
  wait(): Promise<unknown> | null;
  run(): void;
  fail(error: unknown): void;
}

export class OperationQueue {
  #list: Operation[] = [];
  #waiting = false;
  #closed: unknown = null;

  /** Nothing waits: the next operation runs before `push` returns, unless it has to wait itself. */
  get idle(): boolean { return this.#list.length === 0; }
  get length(): number { return this.#list.length; }

  push(operation: Operation): void {
    if (this.#closed !== null) { operation.fail(this.#closed); return; }
    this.#list.push(operation);
    if (!this.#waiting) this.#drain();
  }
  /** Everything that waits fails with this error; `forever` also refuses what comes later. */
  reject(error: unknown, forever: boolean): void {
    if (forever) this.#closed = error;
    const all = this.#list;
    this.#list = [];
    for (const o of all) o.fail(error);
  }

  #drain(): void {
    while (this.#list.length > 0) {
      const next = this.#list[0];
      let wait: Promise<unknown> | null;
      try {
        wait = next.wait();
      } catch (error) {
        if (this.#list[0] === next) this.#list.shift();
        next.fail(error);
        continue;
      }
      if (wait !== null) {
        this.#waiting = true;
        const again = (): void => { this.#waiting = false; this.#drain(); };
        wait.then(again, again);
        return;
      }
      this.#list.shift();
      try { next.run(); } catch (error) { next.fail(error); }
    }
  }
}
