/** Where a command may write: never onto, into or around what it reads, and over what exists only when that is asked for. */
import { isWithin, node, realPath } from "@adjoint/io";
import { ConfigError } from "@adjoint/tensor";

/** @throws ConfigError where `output` is one of the inputs, lies in one, or holds one; inputs that are not on this disk (hub ids) pass */
export async function refuseInputs(command: string, output: string, inputs: readonly (string | null)[], key = "output_dir"): Promise<void> {
  const to = await realPath(output);
  for (const input of inputs) {
    const from = input === null ? null : await node().fs.realpath(input).catch(() => null);
    if (input === null || from === null) continue;
    const how = to === from ? "is what is read" : isWithin(to, from) ? `lies inside of ${input}, which is read` : isWithin(from, to) ? `holds ${input}, which is read` : null;
    if (how !== null) throw new ConfigError(`${command}: ${output} ${how}`, { file: output, key, value: output, fix: `write somewhere else: --${key.replaceAll("_", "-")} with a folder or file of its own` });
  }
}

export interface OutputRules {
  /** files and folders that the command reads */
  readonly inputs?: readonly (string | null)[];
  /** what exists may be replaced */
  readonly overwrite: boolean;
  /** the flag that names the output */
  readonly key?: string;
}

/**
 * Says before any work what may not be written.
 * @throws ConfigError for an output that is, holds or lies in an input; for a file or a folder with something in it, unless `overwrite`
 */
export async function checkOutput(command: string, output: string, { inputs = [], overwrite, key = "output_dir" }: OutputRules): Promise<void> {
  await refuseInputs(command, output, inputs, key);
  if (overwrite) return;
  const { fs } = node(), stat = await fs.stat(output).catch(() => null), isFolder = stat?.isDirectory() === true;
  if (stat === null || (isFolder && (await fs.readdir(output)).length === 0)) return;
  throw new ConfigError(`${command}: ${output} ${isFolder ? "holds files already" : "is there already"}`, { file: output, key, value: output, fix: `choose another --${key.replaceAll("_", "-")}, or add --overwrite` });
}
