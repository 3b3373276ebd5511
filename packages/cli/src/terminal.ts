/** Where the command writes: results to standard output, everything else to standard error. */

/** What a command may use of the process; tests pass their own. */
export interface Terminal {
  /** the result */
  out(text: string): void;
  /** set-up, progress, messages */
  err(text: string): void;
  /** standard error is a terminal: bars may be drawn */
  readonly live: boolean;
  /** colours may be used on standard error */
  readonly color: boolean;
  /** colours may be used on standard output */
  readonly colorOut: boolean;
  /** columns of standard error, at most 110 */
  readonly columns: number;
  /** calls `stop` on the first Ctrl-C; returns what undoes it */
  onInterrupt(stop: () => void): () => void;
}

export const MAX_COLUMNS = 110;

/** The process's own streams. NO_COLOR and FORCE_COLOR are respected. */
export function processTerminal(): Terminal {
  const { stdout, stderr, env } = process, live = stderr.isTTY && env["TERM"] !== "dumb";
  const wanted = (env["FORCE_COLOR"] ?? "") !== "" && env["FORCE_COLOR"] !== "0", refused = (env["NO_COLOR"] ?? "") !== "";
  return {
    out: (text) => { stdout.write(text); },
    err: (text) => { stderr.write(text); },
    live,
    color: !refused && (live || wanted),
    colorOut: !refused && ((stdout.isTTY && env["TERM"] !== "dumb") || wanted),
    columns: Math.min(MAX_COLUMNS, stderr.columns || MAX_COLUMNS),
    onInterrupt(stop) {
      const handler = (): void => { stop(); };
      process.on("SIGINT", handler);
      process.on("SIGTERM", handler);
      return () => { process.off("SIGINT", handler); process.off("SIGTERM", handler); };
    },
  };
}

/** Colours of one terminal: labels dim, only "learned" green and "forgotten" amber. */
export interface Paint {
  dim(text: string): string;
  green(text: string): string;
  amber(text: string): string;
  red(text: string): string;
  bold(text: string): string;
}
export function paint({ color }: Pick<Terminal, "color">): Paint {
  const wrap = (code: string, end: string) => (text: string): string => (color ? `\u001b[${code}m${text}\u001b[${end}m` : text);
  return { dim: wrap("2", "22"), green: wrap("32", "39"), amber: wrap("33", "39"), red: wrap("31", "39"), bold: wrap("1", "22") };
}

const ESCAPES = /\u001b\[[0-9;]*[A-Za-z]/g;
/** Columns that a text takes, colours not counted. */
export const width = (text: string): number => [...text.replaceAll(ESCAPES, "")].length;
/** Cuts to so many columns, with an ellipsis; for texts without colours. */
export function clip(text: string, columns: number): string {
  const letters = [...text];
  return letters.length <= columns ? text : `${letters.slice(0, Math.max(0, columns - 1)).join("")}…`;
}
export const padEnd = (text: string, columns: number): string => text + " ".repeat(Math.max(0, columns - width(text)));
export const padStart = (text: string, columns: number): string => " ".repeat(Math.max(0, columns - width(text))) + text;

/** 1234567 as 1,234,567. */
export const count = (n: number): string => Math.round(n).toLocaleString("en-US");
/** 3.05 M, 331,776, ... */
export const millions = (n: number): string => (n >= 1e9 ? `${(n / 1e9).toFixed(2)} G` : n >= 1e6 ? `${(n / 1e6).toFixed(2)} M` : count(n));
export function bytes(n: number): string {
  if (n >= 1 << 30) return `${(n / (1 << 30)).toFixed(1)} GiB`;
  if (n >= 1 << 20) return `${(n / (1 << 20)).toFixed(1)} MiB`;
  return n >= 1024 ? `${(n / 1024).toFixed(1)} KiB` : `${n} B`;
}
/** 41 s, 2 min 05 s, 1 h 03 min. */
export function duration(seconds: number): string {
  const s = Math.max(0, Math.round(seconds)), two = (n: number): string => String(n).padStart(2, "0");
  if (s < 60) return `${s} s`;
  return s < 3600 ? `${Math.floor(s / 60)} min ${two(s % 60)} s` : `${Math.floor(s / 3600)} h ${two(Math.floor((s % 3600) / 60))} min`;
}
/** Rates such as 2e-3 in few characters. */
export const rate = (x: number): string => (x === 0 ? "0" : x.toExponential(1).replace(".0e", "e").replace("e+", "e"));
