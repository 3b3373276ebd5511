/** A disk that fails at the n-th write: for tests that a full disk leaves the old output intact and nothing half-written. */
import { disk } from "./file-system.ts";
import type { FileSystem } from "./file-system.ts";

/** "once": only the n-th operation fails, renames included. "full": from the n-th on all that needs space fails. */
export type FailureMode = "once" | "full";

export interface FailingFileSystem extends FileSystem {
  /** operations seen so far; when the body succeeds with fewer than n, the sweep is over */
  readonly operations: () => number;
}

/**
 * The disk, failing with `code` at the n-th operation (n from 0); a failing write first takes half of its bytes, as full disks do.
 *
 * Cleaning up (remove, truncate, close) always works, as it does on a full disk.
 */
export function failingFileSystem(n: number, mode: FailureMode = "once", code = "ENOSPC", base: FileSystem = disk): FailingFileSystem {
  let count = 0;
  let full = false;
  const fails = (needsSpace: boolean): boolean => {
    if (mode === "full" && !needsSpace) return false;
    const now = count++;
    if (mode === "full" && now >= n) full = true;
    return mode === "full" ? full : now === n;
  };
  const guard = (name: string, needsSpace: boolean): void => {
    if (fails(needsSpace)) throw Object.assign(new Error(`${code}: injected at operation ${n}, ${name}`), { code });
  };
  return {
    operations: () => count,
    async open(path, mode) {
      guard("open", true);
      const file = await base.open(path, mode);
      return {
        ...file,
        async write(bytes) {
          try {
            guard("write", true);
          } catch (error) {
            if (bytes.byteLength > 1) await file.write(bytes.subarray(0, bytes.byteLength >> 1));
            throw error;
          }
          return file.write(bytes);
        },
        async sync() {
          guard("sync", true);
          return file.sync();
        },
      };
    },
    async rename(from, to) {
      guard("rename", false);
      return base.rename(from, to);
    },
    async makeDirectory(path) {
      guard("makeDirectory", true);
      return base.makeDirectory(path);
    },
    remove: (path) => base.remove(path),
    list: (path) => base.list(path),
  };
}

/**
 * Runs `write` against a disk failing at operation 0, 1, 2, ... in both modes until it succeeds, and `check` after each failure.
 *
 * @param write does the writing under test; it gets a fresh failing file system (pass it on, or use withFileSystem)
 * @param check is called with the error of each failed run, to look at the disk
 * @returns how many runs failed
 */
export async function sweepFailures(
  write: (fs: FailingFileSystem) => Promise<void>,
  check: (error: unknown, at: { n: number; mode: FailureMode }) => Promise<void>,
): Promise<number> {
  let failures = 0;
  for (const mode of ["once", "full"] satisfies FailureMode[]) {
    for (let n = 0; ; n++) {
      if (n === 10_000) throw new Error(`the write still fails without an injected error, or has no end (${mode})`);
      const fs = failingFileSystem(n, mode);
      try {
        await write(fs);
      } catch (error) {
        failures++;
        await check(error, { n, mode });
        continue;
      }
      if (fs.operations() > n) throw new Error(`operation ${n} failed (${mode}) and nobody noticed`);
      break;
    }
  }
  return failures;
}
