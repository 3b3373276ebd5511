/** Runs command lines in this process, and keeps what they print. */
import { cpSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fixture } from "@adjoint/testing/fixtures";
import { afterAll } from "vitest";
import { main, type Terminal } from "../src/index.ts";

const made: string[] = [];
/** A folder that is gone after the tests. */
export function temporary(): string {
  const folder = mkdtempSync(join(tmpdir(), "adjoint-cli-"));
  made.push(folder);
  return folder;
}
/** A copy of a fixture that may be damaged. */
export function copyOf(path: string): string {
  const folder = join(temporary(), "copy");
  cpSync(fixture(path), folder, { recursive: true });
  return folder;
}
afterAll(() => { for (const folder of made) rmSync(folder, { recursive: true, force: true }); });

export interface Ran { readonly code: number; readonly out: string; readonly err: string }

/** Runs `adjoint ...words`. `onError` sees each piece of standard error, and may interrupt. */
export async function adjoint(words: readonly string[], options: Partial<Terminal> & { readonly onError?: (text: string, interrupt: () => void) => void } = {}): Promise<Ran> {
  let out = "", err = "", stop: () => void = () => undefined;
  const { onError, ...rest } = options;
  const terminal: Terminal = {
    out: (text) => { out += text; },
    err: (text) => { err += text; onError?.(text, () => { stop(); }); },
    live: false, color: false, colorOut: false, columns: 110,
    onInterrupt: (f) => { stop = f; return () => { stop = () => undefined; }; },
    ...rest,
  };
  const code = await main(words, terminal);
  return { code, out, err };
}
/** Flags of the exact device. */
export const exact: readonly string[] = ["--device", "reference"];
