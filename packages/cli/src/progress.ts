/** The progress line: a bar with a sparkline of the loss on a terminal, one plain line each 10 % elsewhere. */
import type { StepMetrics } from "@adjoint/train";
import { clip, count, duration, paint, rate, type Terminal, width } from "./terminal.ts";

const BLOCKS = "▁▂▃▄▅▆▇█";

/** The course of some numbers in `cells` characters; equal numbers give a low line. */
export function sparkline(values: readonly number[], cells: number): string {
  const finite = values.filter(Number.isFinite), n = Math.min(cells, finite.length);
  if (n === 0) return "";
  const means = Array.from({ length: n }, (_, i) => {
    const part = finite.slice(Math.floor((i * finite.length) / n), Math.max(Math.floor((i * finite.length) / n) + 1, Math.floor(((i + 1) * finite.length) / n)));
    return part.reduce((a, b) => a + b, 0) / part.length;
  });
  const low = Math.min(...means), span = Math.max(...means) - low;
  return means.map((m) => BLOCKS[span === 0 ? 0 : Math.min(7, Math.floor(((m - low) / span) * 8))]).join("");
}

/** ━━━━╸━━━ with the done part in the terminal's own colour and the rest dim; in ASCII where there is no colour. */
export function bar(share: number, cells: number, dim: (text: string) => string, color: boolean): string {
  const done = Math.max(0, Math.min(cells, Math.floor(share * cells)));
  if (!color) return "=".repeat(done) + "-".repeat(cells - done);
  return done === cells ? "━".repeat(cells) : "━".repeat(done) + "╸" + dim("━".repeat(cells - done - 1));
}

/** Shows the steps of a run. */
export class Progress {
  readonly #terminal: Terminal;
  readonly #every: number;
  readonly #losses: number[] = [];
  #drawn = false;
  #last = 0;
  #said = 0;
  #rate = 0;
  #tenth = 0;
  /** cells of the bar: it never grows, so that it does not flicker */
  #cells = 40;

  /** `every`: where nothing is drawn, a line each so many steps; 0: each 10 % */
  constructor(terminal: Terminal, every = 0) {
    this.#terminal = terminal;
    this.#every = every;
  }

  /** One more step. */
  step(m: StepMetrics, steps: number): void {
    this.#losses.push(m.loss);
    this.#rate = this.#losses.length < 3 ? m.tokens_per_second : 0.8 * this.#rate + 0.2 * m.tokens_per_second;
    const left = ((steps - m.step) * m.tokens_seen) / m.step / Math.max(1, this.#rate);
    if (this.#terminal.live) {
      const now = performance.now();
      if (now - this.#last < 80 && m.step !== steps) return;
      this.#last = now;
      this.#draw(this.#line(m, steps, left));
      return;
    }
    const tenth = Math.floor((10 * m.step) / steps);
    const due = this.#every > 0 ? m.step % this.#every === 0 || m.step === steps : tenth > this.#tenth || this.#said === 0;
    this.#tenth = tenth;
    if (!due) return;
    this.#said++;
    this.#terminal.err(`step ${m.step}/${steps}  ${this.#numbers(m, left).join("  ")}\n`);
  }

  /** So many of so many parts of some work: a bar on a terminal, one line each 25 % elsewhere. */
  part(done: number, all: number, text: string): void {
    const { live, columns, color } = this.#terminal, { dim } = paint(this.#terminal);
    if (!live) {
      const quarter = Math.floor((4 * done) / all);
      if (quarter > this.#tenth || done === all) this.#terminal.err(`${text.split(" ")[0]} ${done}/${all}\n`);
      this.#tenth = done === all ? 0 : quarter;
      return;
    }
    const now = performance.now();
    if (now - this.#last < 80 && done !== all) return;
    this.#last = now;
    const tail = `  ${done}/${all}  `, cells = Math.max(8, Math.min(32, columns - width(tail) - 30));
    this.#draw(bar(done / all, cells, dim, color) + tail + dim(clip(text, Math.max(8, columns - cells - width(tail) - 1))));
  }

  /** A passing message on the line of the bar; nothing where there is no terminal. */
  message(text: string): void {
    if (this.#terminal.live) this.#draw(paint(this.#terminal).dim(text));
  }

  /** Removes the bar, so that other lines can follow. */
  clear(): void {
    if (this.#drawn) this.#terminal.err("\r\u001b[2K");
    this.#drawn = false;
  }

  #numbers(m: StepMetrics, left: number): string[] {
    const loss = Number.isFinite(m.loss) ? m.loss.toFixed(m.loss < 0.1 ? 4 : 2) : "nan";
    return [`loss ${loss}`, `|g| ${Number.isFinite(m.grad_norm) ? m.grad_norm.toPrecision(2) : "inf"}`, `lr ${rate(m.learning_rate)}`, `${count(this.#rate)} tok/s`, `${count(m.memory / 1e6)} MB`, ...(m.skipped ? ["skipped"] : []), duration(left)];
  }

  #line(m: StepMetrics, steps: number, left: number): string {
    const { columns, color } = this.#terminal, { dim } = paint(this.#terminal);
    const [loss, ...rest] = this.#numbers(m, left), spark = sparkline(this.#losses, 8);
    const tail = `  ${m.step}/${steps}  ${loss} ${spark}  ${rest.join("  ")}`;
    const cells = (this.#cells = Math.min(this.#cells, columns - width(tail) - 1));
    return cells >= 8 ? bar(m.step / steps, cells, dim, color) + tail : tail.slice(2, columns + 1);
  }

  #draw(line: string): void {
    this.#terminal.err(`\r\u001b[2K${line}`);
    this.#drawn = true;
  }
}
