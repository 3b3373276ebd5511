/** The folder of a run: what of it may be replaced, what must stay, and what a killed process left there. */
import { fileSystem, isWithin, node, realPath, writeFileAtomic } from "@adjoint/io";
import { ConfigError } from "@adjoint/tensor";
import { EVALUATIONS_FILE, linesUpTo, METRICS_FILE, readMetrics, SAMPLES_FILE } from "./metrics.ts";
import type { Recipe } from "./recipe.ts";

export const RUN_FILE = "run.json";
const outputs: readonly string[] = ["adapter", "model"];
const files: readonly string[] = [METRICS_FILE, EVALUATIONS_FILE, SAMPLES_FILE, RUN_FILE, "report.html"];
const isCheckpoint = (name: string): boolean => /^\.?checkpoint-\d+(\.previous)?$/.test(name);
const isOfRun = (name: string): boolean => files.includes(name) || outputs.includes(name) || isCheckpoint(name);

/** Keys whose values are paths that a run reads. */
const inputs = ["model_name_or_path", "init_adapter", "tokenizer_name", "config_name", "dataset_name", "eval_dataset_name", "old_dataset_name", "ids", "eval_ids", "resume_from_checkpoint"] as const satisfies readonly (keyof Recipe)[];

const isThere = (path: string): Promise<boolean> => node().fs.access(path).then(() => true, () => false);
/** The names in a folder; none where there is none. */
async function namesIn(folder: string): Promise<readonly string[]> {
  const names = await fileSystem().list(folder);
  if (names === "file") throw new ConfigError(`${folder} is a file`, { file: folder, key: "output_dir", value: folder, fix: "name a folder" });
  return names ?? [];
}

/** Refuses to remove names of a folder when something that the run reads is one of them or lies inside. */
async function refuseInputs(folder: string, names: readonly string[], recipe: Recipe): Promise<void> {
  const { join } = node().path, places = await Promise.all(names.map((name) => realPath(join(folder, name))));
  for (const key of inputs) {
    for (const value of [recipe[key] ?? []].flat()) {
      // a run's folder stands for the adapter in it
      const path = key === "init_adapter" && !(await isThere(join(value, "adapter_config.json"))) ? join(value, "adapter") : value, from = await realPath(path);
      const name = names.find((_, i) => isWithin(from, places[i]));
      if (name !== undefined) throw new ConfigError(`${folder}: replacing the run would remove ${name}, and ${key} = ${value} lies in it`, { file: join(folder, name), key, value, fix: "choose another --output-dir" });
    }
  }
}

/**
 * Makes room for a new run. What is there goes away only if it is a run (run.json or metrics.jsonl is there) that never took a step, or that the recipe says to replace.
 * @throws ConfigError for another run, for names that no run wrote, and when something that is read would go
 */
export async function prepareFolder(folder: string, recipe: Recipe): Promise<void> {
  const names = await namesIn(folder), own = names.filter(isOfRun);
  if (own.length === 0) return;
  const listed = own.slice(0, 3).join(", "), bad = (problem: string, fix: string): ConfigError => new ConfigError(`${folder} holds ${problem}`, { file: folder, key: "output_dir", value: folder, fix });
  if (!names.includes(RUN_FILE) && !names.includes(METRICS_FILE)) throw bad(`${listed}, and neither run.json nor metrics.jsonl says that a run wrote it`, "choose another --output-dir, or move it away");
  if (!recipe.overwrite_output_dir) {
    const going = own.some(isCheckpoint), output = own.find((n) => outputs.includes(n)), resume = recipe.resume_from_checkpoint;
    const goOn = resume !== null ? "give the folder of that checkpoint's run as --output-dir, " : going ? "go on with --resume latest, " : "";
    if (going || output !== undefined || !(await isEmpty(folder))) throw bad(`an earlier run (${listed})`, `${goOn}choose another --output-dir, or add --overwrite`);
  }
  await refuseInputs(folder, own, recipe);
  for (const name of own) await fileSystem().remove(node().path.join(folder, name));
}
const isEmpty = async (folder: string): Promise<boolean> => (await readMetrics(folder).catch(() => [null])).length === 0;

/** A folder for a checkpoint that goes on: its own, or another one, which gets the lines up to its step from the folder that holds it. */
export async function continueIn(folder: string, recipe: Recipe, checkpoint: string, step: number): Promise<void> {
  const { dirname, join } = node().path, home = dirname(await realPath(checkpoint));
  if (home === await realPath(folder)) return;
  await prepareFolder(folder, recipe);
  for (const name of [METRICS_FILE, EVALUATIONS_FILE, SAMPLES_FILE]) {
    const { kept } = await linesUpTo(home, name, step);
    if (kept !== "") await writeFileAtomic(join(folder, name), kept);
  }
}

/** Whether a process of this number runs on this machine. */
function isAlive(pid: number): boolean {
  try { process.kill(pid, 0); } catch (error) { return !(error instanceof Error && "code" in error && error.code === "ESRCH"); }
  return true;
}

/** Removes what a killed process began to write beside a run's files; nothing writes there yet, so what has this process's own number is old too. */
export async function removeStale(folder: string): Promise<void> {
  for (const name of await namesIn(folder)) {
    const [, target = "", pid = ""] = /^\.(.+)\.(\d+)-\d+\.tmp$/.exec(name) ?? [];
    if (isOfRun(target) && (Number(pid) === process.pid || !isAlive(Number(pid)))) await fileSystem().remove(node().path.join(folder, name));
  }
}
