/** How many runs are unfinished, and who waits for them. */
export class Pace {
  #runs = 0;
  #waiters: { readonly queued: number; readonly resolve: () => void; readonly reject: (e: unknown) => void }[] = [];
  get runs(): number { return this.#runs; }
  begin(): void { this.#runs++; }
  /** One run is over; `error` is what nobody has heard of yet. */
  end(error: Error | null): void {
    this.#runs--;
    if (this.#waiters.length === 0) return;
    if (error !== null) { this.fail(error); return; }
    const all = this.#waiters;
    this.#waiters = [];
    for (const w of all) if (this.#runs <= w.queued) w.resolve(); else this.#waiters.push(w);
  }
  fail(error: unknown): void {
    const all = this.#waiters;
    this.#waiters = [];
    for (const w of all) w.reject(error);
  }
  wait(queued: number): Promise<void> {
    return this.#runs <= queued ? Promise.resolve() : new Promise((resolve, reject) => { this.#waiters.push({ queued, resolve, reject }); });
  }
}
