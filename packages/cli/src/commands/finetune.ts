/** `adjoint finetune` and `adjoint pretrain`: a recipe, a model and data go in; an adapter or a model, metrics and a report come out. */
import { node, openModelFolder, readText } from "@adjoint/io";
import { adapterTitle, type LoraConfig, type Tuned } from "@adjoint/lora";
import { type CausalLM, generate, initModel, loadTokenizer, resolveModel } from "@adjoint/models";
import { aboutOptimizer } from "@adjoint/optim";
import { bitsandbytesWeights } from "@adjoint/quant";
import { ConfigError, type HostArray } from "@adjoint/tensor";
import { baseOptions, checkpointOrigin, type DataSet, defaultRecipe, fields, fullTrainee, latestCheckpoint, loraOptions, type Measured, memoryBytes, type Recipe, run, type RunOptions, type RunResult, stepsOf, type Trainee, traineeOf, tunedFor, warmupOf, writeReport } from "@adjoint/train";
import type { Arguments, Grammar } from "../arguments.ts";
import { rankText } from "../adapter-text.ts";
import type { Answer, Command } from "../command.ts";
import { forgottenInFull } from "../beside.ts";
import { type ExactMatch, exactMatch, matchRows } from "../exact-match.ts";
import { adapterFolder, baseKeys, companionFiles, held, openAdapter, openData, openDevice, openMeasured, openModel, type OpenModel, titleOf } from "../open.ts";
import { recipeKeys, recipeOf } from "../recipes.ts";
import { refuseInputs } from "../output.ts";
import { Progress } from "../progress.ts";
import { Screen } from "../screen.ts";
import { bytes, count, duration, millions, paint, rate, type Terminal } from "../terminal.ts";
import { about, version } from "../version.ts";

type Kind = "finetune" | "pretrain";

const pretrainOnly: ReadonlySet<keyof Recipe> = new Set<keyof Recipe>(["config_name", "save_dtype"]);
/** Keys of adapters that ReLoRA has when all weights are new. */
const reloraKeys: readonly (keyof Recipe)[] = ["relora", "relora_cycle", "relora_warmup", "relora_warm_start", "relora_reset", "relora_reset_ratio", "lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "exclude_modules", "use_rslora"];
const adapterKeys: readonly (keyof Recipe)[] = recipeKeys.filter((key) => fields[key].group === "adapter");
const finetuneOnly: ReadonlySet<keyof Recipe> = new Set<keyof Recipe>([...adapterKeys.filter((key) => !reloraKeys.includes(key)), ...baseKeys, "init_adapter", "old_dataset_name"]);

const flags = { recipe: { kind: "text", value: "FILE", help: "YAML recipe, or the run.json of an earlier run; flags go before it" } } as const;
const finetuneGrammar: Grammar = {
  name: "finetune", positionals: ["[RECIPE]"], flags,
  summary: "Fine-tunes a language model, by default the bundled one on Moby-Dick with a rank-stabilised low-rank adapter.",
  keys: recipeKeys.filter((key) => key !== "config_name"),
  examples: [
    "adjoint finetune", "adjoint finetune --data notes.txt --sample-prompt \"Dear diary\" --output-dir out/diary", "adjoint finetune --dataset-name numbers",
    "adjoint finetune --model HuggingFaceTB/SmolLM2-135M --data chats.jsonl --max-steps 200", "adjoint finetune --model HuggingFaceTB/SmolLM2-135M --data chats.jsonl --load-in-4bit --bnb-4bit-use-double-quant --gradient-checkpointing", "adjoint finetune recipe.yaml --learning-rate 1e-3", "adjoint finetune --output-dir out/diary --resume latest",
  ],
};
const pretrainGrammar: Grammar = {
  name: "pretrain", positionals: ["[RECIPE]"], flags,
  summary: "Trains all weights of a language model from random numbers.",
  keys: recipeKeys.filter((key) => !finetuneOnly.has(key)),
  examples: ["adjoint pretrain --config-name config.json --tokenizer-name DIR --data texts/ --max-steps 2000 --output-dir out/base"],
};
const finetuneDefaults: Partial<Recipe> = { dataset_name: ["moby-dick"] };
const pretrainDefaults: Partial<Recipe> = { use_peft: false, lr_scheduler_type: "cosine", learning_rate: 2e-3, weight_decay: 0.1, adam_beta2: 0.95, warmup_ratio: 0.02, dataset_name: ["addresses"] };

/** What will be trained, and what Python loads it with. */
interface Subject {
  readonly base: OpenModel;
  readonly tuned: Tuned<CausalLM> | null;
  readonly trainee: Trainee;
  /** files that belong into the folder of what is trained */
  readonly files: Readonly<Record<string, string>>;
}

/** The model that training starts from. */
async function baseOf(kind: Kind, recipe: Recipe, say: (text: string) => void, progress: Progress): Promise<OpenModel> {
  if (kind === "pretrain") return fromScratch(recipe);
  // what trains is held in f32; so is what ReLoRA adds to, unless it is codes
  const wide = !recipe.use_peft || recipe.relora_train_rest || (recipe.relora !== null && !recipe.load_in_4bit && !recipe.load_in_8bit);
  return openModel(recipe.model_name_or_path, { tokenizer: recipe.ids === null ? "auto" : false, tokenizerName: recipe.ids === null ? recipe.tokenizer_name : null, dtype: wide ? "f32" : "auto", base: baseOptions(recipe), say, progress });
}

/** What `from_pretrained` takes: of a GGUF file its folder and its name. */
function pythonSource(path: string): string {
  if (!/\.gguf$/i.test(path)) return `"${path}"`;
  const { dirname, basename } = node().path;
  return `"${dirname(path)}", gguf_file="${basename(path)}"`;
}

/** What trains beside or inside the base. */
async function subjectOf(kind: Kind, recipe: Recipe, base: OpenModel, data: DataSet, folder: string, say: (text: string) => void, progress: Progress): Promise<Subject> {
  const own = kind === "pretrain" ? recipe.tokenizer_name : recipe.ids === null ? (recipe.tokenizer_name ?? base.folder) : null;
  if (!recipe.use_peft) {
    if (recipe.init_adapter !== null) throw new ConfigError("init_adapter goes with use_peft", { key: "init_adapter", value: recipe.init_adapter, fix: "merge the adapter first (adjoint merge), or drop --no-use-peft" });
    const key = adapterKeys.find((k) => kind === "finetune" && k !== "use_peft" && k !== "lora_target_modules" && !["lora_r", "lora_alpha", "use_rslora", "lora_dropout", "loraplus_lr_ratio"].includes(k) && JSON.stringify(recipe[k]) !== JSON.stringify(defaultRecipe[k]));
    if (key !== undefined) throw new ConfigError(`${key} is about an adapter, and all weights train`, { key, value: recipe[key], fix: "remove it, or drop --no-use-peft" });
    return { base, tuned: null, trainee: fullTrainee(base.model), files: await companionFiles(own) };
  }
  const tuned = recipe.init_adapter === null ? await newAdapter(recipe, base, data, folder, progress) : await openAdapter(base.model, givenAdapter(recipe), say);
  const trainee = traineeOf(recipe, tuned);
  // an adapter's base has its tokenizer beside it, unless the base is one file
  return { base, tuned, trainee, files: trainee.output === "model" || (own !== null && /\.gguf$/i.test(own)) ? await companionFiles(own) : {} };
}

/** An adapter that is given brings its own kind and first numbers. */
function givenAdapter(recipe: Recipe): string {
  const key = adapterKeys.find((k) => (k.startsWith("init_") || ["peft_type", "use_dora", "lora_bias", "bias", "modules_to_save", "exclude_modules", "rank_pattern", "alpha_pattern", "trainable_token_indices", "target_parameters", "ensure_weight_tying", "fan_in_fan_out"].includes(k) || k.startsWith("layers_") || k.endsWith("_config")) && JSON.stringify(recipe[k]) !== JSON.stringify(defaultRecipe[k]));
  if (key !== undefined) throw new ConfigError(`${key} and init_adapter: the adapter that is given brings its own`, { key, value: recipe[key], fix: "remove one of the two" });
  return recipe.init_adapter ?? "";
}

/** A new adapter; where a run goes on, with the first factors that its checkpoint keeps. */
async function newAdapter(recipe: Recipe, base: OpenModel, data: DataSet, folder: string, progress: Progress): Promise<Tuned<CausalLM>> {
  const resume = recipe.resume_from_checkpoint, from = resume === null ? null : resume === "latest" || resume === "true" ? await latestCheckpoint(folder) : resume;
  const weights = async (name: string): Promise<HostArray> => {
    const codes = (): ConfigError => new ConfigError(`${base.path} holds codes, and ${String(recipe.init_lora_weights)} begins with the weights that they were made of`, { key: "init_lora_weights", value: recipe.init_lora_weights, fix: "give the model that was quantized as --model, with --load-in-4bit" });
    if (/\.gguf$/i.test(base.path)) throw codes();
    const file = await openModelFolder(await resolveModel(base.folder ?? base.path, recipe.model_revision === null ? {} : { revision: recipe.model_revision }));
    try {
      if (bitsandbytesWeights(file.entries.keys()).has(name)) throw codes();
      return await file.read(name);
    } finally { await file.close(); }
  };
  const tuned = await tunedFor(recipe, base.model, { base: base.path, data, weights, origin: from === null ? null : await checkpointOrigin(from), onModule: ({ path, index, count: all }) => { progress.part(index + 1, all, `first factors of ${path}`); } });
  progress.clear();
  return tuned;
}

/** A model of random numbers, from a config.json and a tokenizer. */
async function fromScratch(recipe: Recipe): Promise<OpenModel> {
  const file = recipe.config_name;
  if (file === null) throw new ConfigError("pretrain needs a config.json", { key: "config_name", value: null, fix: "give --config-name FILE" });
  const path = (await node().fs.stat(file).catch(() => null))?.isDirectory() === true ? node().path.join(file, "config.json") : file;
  let json: Record<string, unknown>;
  try { json = JSON.parse(await readText(path)) as Record<string, unknown>; } catch (cause) { throw new ConfigError(`${path} is missing or not JSON`, { file: path, key: "config_name", cause, fix: "give the path of a config.json" }); }
  const tokenizer = recipe.ids !== null || recipe.tokenizer_name === null ? null : await loadTokenizer(recipe.tokenizer_name);
  const model = initModel(json, recipe.seed, { tokenizer });
  if (tokenizer !== null && tokenizer.vocabSize > model.config.vocabSize) {
    throw new ConfigError(`${path}: vocab_size is ${model.config.vocabSize}, the tokenizer has ${tokenizer.vocabSize} tokens`, { file: path, key: "vocab_size", value: model.config.vocabSize, fix: `set vocab_size to ${tokenizer.vocabSize}` });
  }
  return { model, path, name: node().path.basename(node().path.dirname(path)) || path, folder: null };
}

function scaleText(c: LoraConfig, scales: readonly number[]): string {
  if (scales.length > 1) return "scales by module";
  const plain = c.adalora === null && c.vera === null, formula = !plain ? "" : c.useRslora ? `${c.loraAlpha}/sqrt(${c.r}) = ` : `${c.loraAlpha}/${c.r} = `;
  return `scale ${formula}${Number(scales[0].toPrecision(4))}`;
}
/** What of an adapter is not plain. */
function besideText(c: LoraConfig, recipe: Recipe): string {
  const saved = recipe.relora_train_rest ? "all else in full" : c.modulesToSave?.join(" and ");
  return [...(typeof c.initLoraWeights === "boolean" ? [] : [`${c.initLoraWeights} at first`]), ...(c.bias === "none" ? [] : [`biases: ${c.bias}`]), ...(saved === undefined ? [] : [saved])].map((text) => `, ${text}`).join("");
}

/** The lines above the bar. */
function describe(screen: Screen, recipe: Recipe, { base, tuned, trainee }: Subject, data: Awaited<ReturnType<typeof openData>>): void {
  const { config } = base.model, r = trainee.trainable, trains = Object.values(r).reduce((n, p) => n + p.size, 0), own = held(base.model), all = own.parameters;
  const family = config.modelType[0].toUpperCase() + config.modelType.slice(1);
  screen.row("base", base.name, `${family}, ${config.numHiddenLayers} layers, width ${config.hiddenSize}, ${count(config.vocabSize)} tokens`, `${millions(all)} parameters, ${own.types}, ${bytes(own.bytes)}`);
  const { data: rows, heldOut } = data;
  screen.row("data", data.title, `${count(rows.tokens)} tokens, ${count(rows.samples.length)} rows of up to ${rows.longest}`, heldOut === null ? "nothing held out" : `held out: ${count(heldOut.predicted)} tokens`);
  if (tuned !== null) {
    const { loraConfig: c, targets } = tuned, scales = [...new Set(targets.targets.map((t) => t.scale))], linear = targets.targets.length;
    const heads = new Set(base.model.modules().filter((m) => m.isOutputHead).map((m) => m.path)), rest = targets.notAdapted.filter((path) => !heads.has(path)).length;
    screen.row("adapter", recipe.relora === null ? adapterTitle(c) : `Re${adapterTitle({ ...c, useRslora: false })}`, `${rankText(c).replace(" ", "=")}, ${scaleText(c, scales)}, ${linear} of ${linear + rest} layers${besideText(c, recipe)}`, `${count(trains)} train (${((100 * trains) / all).toFixed(1)} %)`);
    if (recipe.relora !== null) screen.row("merges", `each ${recipe.relora} steps`, `${Math.max(0, Math.floor((stepsOf(recipe, rows) - recipe.relora_warm_start - 1) / recipe.relora))} in all, moments ${recipe.relora_reset === "none" ? "kept" : recipe.relora_reset === "zero" ? "set to zero" : `${recipe.relora_reset}, ${100 * (recipe.relora_reset_ratio ?? 0)} % forgotten`}`, recipe.relora_warm_start === 0 ? "" : `the first ${recipe.relora_warm_start} steps train all weights`);
  } else screen.row("weights", "all", `${count(trains)} train (100 %)`, "");
  const batch = recipe.gradient_accumulation_steps > 1 ? `batch ${recipe.per_device_train_batch_size} x ${recipe.gradient_accumulation_steps}` : `batch ${recipe.per_device_train_batch_size}`;
  const warm = warmupOf(recipe, stepsOf(recipe, rows)), warmup = warm > 0 ? `, warm-up ${warm}` : "";
  screen.row("training", aboutOptimizer(recipe.optim).title, `${rate(recipe.learning_rate)}, ${recipe.lr_scheduler_type}${warmup}, ${batch}, ${count(stepsOf(recipe, rows))} steps, seed ${recipe.seed}`, "");
  for (const w of [...(tuned?.targets.warnings ?? []), ...data.warnings]) screen.note(w);
  if (data.truncated > 0) screen.note(`${count(data.truncated)} of the rows are longer than max_length = ${recipe.max_length} and were cut`);
}

async function start(kind: Kind, args: Arguments, terminal: Terminal): Promise<Answer> {
  const { recipe: given, fitsLength, notes } = await recipeOf(args, kind === "finetune" ? finetuneDefaults : pretrainDefaults);
  let recipe: Recipe = kind === "pretrain" ? { ...given, use_peft: given.relora !== null, relora_train_rest: given.relora !== null } : given;
  if (kind === "pretrain" && given.relora === null) {
    const key = reloraKeys.find((k) => JSON.stringify(given[k]) !== JSON.stringify(defaultRecipe[k]));
    if (key !== undefined) throw new ConfigError(`pretrain: ${key} goes with relora`, { key, value: given[key], fix: "set relora to the steps between merges, or remove it" });
  }
  for (const key of kind === "finetune" ? pretrainOnly : finetuneOnly) {
    if (key !== "save_dtype" && key !== "use_peft" && JSON.stringify(given[key]) !== JSON.stringify(defaultRecipe[key])) throw new ConfigError(`${kind}: ${key} has no meaning here`, { key, value: recipe[key], fix: "remove it" });
  }
  if (recipe.save_dtype !== "float32" && recipe.use_peft && recipe.relora === null) throw new ConfigError("save_dtype is for fully trained models; adapters are written in float32, as PEFT does", { key: "save_dtype", value: recipe.save_dtype, fix: "remove it" });
  if (recipe.use_peft && recipe.init_adapter === null) loraOptions(recipe, null);      // what cannot be is said before a model is loaded
  const folder = recipe.output_dir ?? (kind === "pretrain" ? "out/pretrain" : "out/finetune"), quiet = args.flag("quiet");
  // --overwrite removes the parts of an earlier run before this one writes them
  for (const part of ["adapter", "model"]) await refuseInputs(kind, node().path.join(folder, part), [recipe.model_name_or_path, recipe.init_adapter === null ? null : await adapterFolder(recipe.init_adapter), recipe.tokenizer_name]);
  const screen = new Screen(terminal, quiet), progress = new Progress(quiet ? { ...terminal, err: () => undefined } : terminal, recipe.logging_steps);
  const device = await openDevice(recipe);
  const network = recipe.model_name_or_path === null ? "offline" : "";
  screen.header(`adjoint ${version}   Node ${process.versions.node}   ${device}${network === "" ? "" : `   ${network}`}`);
  for (const n of notes) screen.note(n);
  const say = (text: string): void => { screen.note(text); }, opened = await baseOf(kind, recipe, say, progress);
  if (fitsLength && recipe.ids === null) recipe = { ...recipe, max_length: Math.min(recipe.max_length, opened.model.config.maxPositionEmbeddings) };
  const data = await openData(recipe, opened.model, opened.path), subject = await subjectOf(kind, recipe, opened, data.data, folder, say, progress);
  describe(screen, recipe, subject, data);
  const measured = await measuredOf(recipe, subject, data);
  const { tuned, base, trainee } = subject, subjectModel = tuned ?? base.model;
  const options: RunOptions = {
    command: kind, recipe, trainee, data: data.data, measured, folder, modelFiles: subject.files,
    sample: base.model.tokenizer === null ? null : (prompt) => generate(subjectModel, prompt, { maxNewTokens: recipe.sample_max_new_tokens, seed: recipe.seed, temperature: 0.8, topK: 40 }),
    about: about(kind, args, device, base, held(base.model).parameters),
  };
  const rows = matchRows(data.rows);
  const match: { before: ExactMatch | null; after: ExactMatch | null } = { before: null, after: null };
  if (rows.length > 0 && recipe.resume_from_checkpoint === null) match.before = await exactMatch(subjectModel, rows, (done) => { progress.message(`before: exact match on held-out rows ${done}/${rows.length}`); });
  const result = await follow(options, terminal, screen, progress);
  if (result.status === "interrupted") return interrupted(kind, args, result, folder, screen);
  if (rows.length > 0) match.after = await exactMatch(subjectModel, rows, (done) => { progress.message(`after: exact match on held-out rows ${done}/${rows.length}`); });
  progress.clear();
  const report = await writeReport({ folder, recipe, result, title: `${kind === "finetune" ? "Fine-tuning" : "Pre-training"} of ${base.name} on ${data.title}`, about: options.about ?? {} });
  return finished(kind, recipe, result, subject, report, match, terminal);
}

async function measuredOf(recipe: Recipe, { base }: Subject, data: Awaited<ReturnType<typeof openData>>): Promise<Measured[]> {
  const list: Measured[] = data.heldOut === null ? [] : [{ name: data.title, role: "new", data: data.heldOut }];
  if (recipe.old_dataset_name.length > 0) {
    if (base.model.tokenizer === null) throw new ConfigError("old_dataset_name needs a tokenizer", { key: "old_dataset_name", value: recipe.old_dataset_name, fix: "remove it, or leave out --ids" });
    const name = titleOf(recipe.old_dataset_name);
    list.push({ name: name === data.title ? `${name} (old)` : name, role: "old", data: await openMeasured(recipe.old_dataset_name, recipe, base.model.tokenizer) });
  }
  return list;
}

const figures = (loss: number, bits: number | null): string => `${loss.toFixed(2)} nats${bits === null ? "" : ` ${bits.toFixed(2)} bits/byte`}`;

/** Runs and shows. The first Ctrl-C ends the run between two steps with a checkpoint; the second ends the process. */
async function follow(options: RunOptions, terminal: Terminal, screen: Screen, progress: Progress): Promise<RunResult> {
  const stop = new AbortController();
  let first = 0;
  const undo = terminal.onInterrupt(() => {
    // a shell may send the same signal to the process and to its group
    if (stop.signal.aborted && performance.now() - first < 1000) return;
    if (stop.signal.aborted) process.exit(130);
    first = performance.now();
    progress.clear();
    screen.note("stopping after this micro-batch; Ctrl-C again ends at once");
    stop.abort(new Error("interrupted"));
  });
  const before: string[] = [];
  try {
    const going = run({ ...options, signal: stop.signal });
    for (;;) {
      const next = await going.next();
      if (next.done === true) { progress.clear(); return next.value; }
      const event = next.value;
      if (event.type === "note") screen.note(event.text);
      else if (event.type === "evaluating") progress.message(`measuring ${event.name} ...`);
      else if (event.type === "evaluation") {
        const { name, step, result } = event, text = `${name} ${figures(result.loss, result.bitsPerByte)}`;
        progress.clear();
        if (step === 0) before.push(text);
        else if (step < stepsOf(options.recipe, options.data)) screen.line(`step ${step}`, text);
        if (step === 0 && before.length === options.measured.length) { screen.gap(); screen.line("before", before.join("    ")); screen.gap(); }
      } else if (event.type === "step") progress.step(event.metrics, event.steps);
      else if (event.type === "estimate") { progress.clear(); screen.line("estimate", `${duration(event.estimate.seconds)}  ${count(event.estimate.memory / 1e6)} MB`); }
      else if (event.type === "checkpoint") { progress.clear(); screen.line("saved", event.folder); }
      else event satisfies never;
    }
  } finally {
    undo();
    progress.clear();
  }
}

function interrupted(kind: Kind, args: Arguments, result: RunResult, folder: string, screen: Screen): Answer {
  const own = args.words.filter((word, i, all) => !/^--(resume|resume[-_]from[-_]checkpoint)(=|$)/.test(word) && !/^--(resume|resume[-_]from[-_]checkpoint)$/.test(all[i - 1] ?? "") && word !== "--overwrite");
  const quoted = own.map((word) => (/^[\w./:=,@+-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`));
  const command = result.checkpoint === null ? null : ["adjoint", kind, ...quoted, ...(args.recipe.output_dir === undefined ? ["--output-dir", folder] : []), "--resume", "latest"].join(" ");
  screen.gap();
  screen.line("stopped", `after step ${result.steps}${result.checkpoint === null ? "; nothing was trained yet" : `; saved in ${result.checkpoint}`}`);
  if (command !== null) screen.line("resume", command);
  return { text: "", json: { status: "interrupted", steps: result.steps, checkpoint: result.checkpoint, resume: command }, code: 130 };
}

function finished(kind: Kind, recipe: Recipe, result: RunResult, { base, trainee }: Subject, report: string, match: { before: ExactMatch | null; after: ExactMatch | null }, terminal: Terminal): Answer {
  const out = new Screen({ ...terminal, err: terminal.out, color: terminal.colorOut }, false), p = paint({ color: terminal.colorOut });
  const lines: string[] = [];
  out.capture(lines);
  if (result.comparisons.length > 0) {
    const bits = result.comparisons.every((c) => c.after.bitsPerByte !== null), inFull = kind === "finetune" ? forgottenInFull(recipe) : null;
    out.table(result.comparisons.map((c) => {
      const value = (e: { loss: number; bitsPerByte: number | null } | null): number => (e === null ? Number.NaN : bits ? (e.bitsPerByte ?? Number.NaN) : e.loss);
      const was = value(c.before), is = value(c.after), change = (100 * (is - was)) / was;
      const word = change === 0 || !Number.isFinite(change) ? "" : c.role === "new" ? (change < 0 ? p.green("learned") : p.amber("not learned")) : change > 0 ? p.amber("forgotten") : p.green("not forgotten");
      return [c.role, c.name, was.toFixed(2), is.toFixed(2), Number.isFinite(change) ? percent(change) : "", word, c.role === "old" && inFull !== null ? `full fine-tuning to the same point: ${percent(inFull)}` : ""];
    }), bits ? "bits per byte" : "nats per token");
    out.gap();
  }
  if (match.after !== null) {
    for (const row of match.after.rows) out.plain(`  ${row.right ? " " : "x"} ${row.prompt}${row.got}${row.right ? "" : `   (${row.want.trim()})`}`);
    out.line("exact", `${match.after.right} of ${match.after.rows.length} held-out rows${match.before === null ? "" : `; the base alone: ${match.before.right}`}`);
    out.gap();
  }
  if (result.samples.length > 0) {
    const first = result.samples[0], last = result.samples[result.samples.length - 1];
    out.sample(first.prompt, first.step === 0 && last.step > 0 ? first.text : null, last.text);
    out.gap();
  }
  if (result.comparisons.length === 0 && result.metrics.length > 0) {
    out.line("loss", `${result.metrics[0].loss.toFixed(4)} at the first step, ${result.metrics[result.metrics.length - 1].loss.toFixed(4)} at the last`);
  }
  if (result.skipped > 0) out.line("skipped", `${result.skipped} of ${result.steps} steps changed nothing (no finite gradient, or no token to predict)`);
  const output = result.output ?? "", whole = trainee.output === "model", python = whole ? `AutoModelForCausalLM.from_pretrained("${output}")` : `PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(${pythonSource(base.path)}), "${output}")`;
  out.line(whole ? "model" : "adapter", `${output}   ${whole ? (recipe.relora === null ? "Hugging Face folder" : "Hugging Face folder; all merges and the last factors are in its weights") : "PEFT files"}   ${duration(result.seconds)}, ${count(memoryBytes() / 1e6)} MB`);
  out.line("report", `${report}   curves, samples, recipe, machine`);
  out.line("python", python);
  return {
    text: `${lines.join("\n")}\n`,
    json: {
      status: "done", command: kind, steps: result.steps, skipped_steps: result.skipped, seconds: result.seconds, output_dir: result.folder, [whole ? "model" : "adapter"]: output, report, python,
      train_loss: { first: result.metrics[0]?.loss ?? null, last: result.metrics[result.metrics.length - 1]?.loss ?? null },
      evaluations: result.comparisons.map((c) => ({ name: c.name, role: c.role, before: json(c.before), after: json(c.after) })),
      ...(match.after === null ? {} : { exact_match: { before: match.before?.right ?? null, after: match.after.right, rows: match.after.rows.length } }),
      samples: result.samples,
    },
  };
}
const percent = (x: number): string => `${x > 0 ? "+" : ""}${x.toFixed(0)} %`;
const json = (e: { loss: number; tokens: number; bitsPerByte: number | null } | null): unknown => (e === null ? null : { loss: e.loss, tokens: e.tokens, bits_per_byte: e.bitsPerByte });

export const finetune: Command = { grammar: finetuneGrammar, defaults: { ...defaultRecipe, ...finetuneDefaults }, run: (args, terminal) => start("finetune", args, terminal) };
export const pretrain: Command = { grammar: pretrainGrammar, defaults: { ...defaultRecipe, ...pretrainDefaults }, run: (args, terminal) => start("pretrain", args, terminal) };
