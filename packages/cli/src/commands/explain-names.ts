/** `adjoint explain optimizer NAME` and `adjoint explain schedule NAME`: equations, options, memory and source, without a model. */
import { aboutOptimizer, type OptimizerAbout, aboutSchedule, optimizerEntries, type OptimizerEntry, plotSchedule, scheduleNames, stateBytes } from "@adjoint/optim";
import { type Store, zeroStore } from "@adjoint/tensor";
import { defaultRecipe, type Recipe } from "@adjoint/train";
import type { Answer } from "../command.ts";
import { plot, sparkline } from "../plot.ts";
import { padEnd } from "../terminal.ts";
import { foldedTable as table, indent, lines } from "./explain-text.ts";

/** One schedule, or all of them with a line each. */
export function explainSchedule(name: string | null): Answer {
  if (name === null) {
    const all = scheduleNames.map((n) => ({ name: n, title: aboutSchedule(n).title, curve: plotSchedule(n, 32) }));
    return { text: `schedules (lr_scheduler_type); adjoint explain schedule NAME tells the rest\n\n${table(all.map((s) => [s.name, `${sparkline(s.curve)}  ${s.title}`]))}`, json: { schedules: all } };
  }
  const { title, equation, keys, use, source, example } = aboutSchedule(name), curve = plotSchedule(name);
  const options = Object.entries(keys).map(([key, k]): [string, string] => [key, k.help]), shown = Object.entries(example).map(([k, v]) => `${k} ${String(v)}`).join(", ");
  return {
    text: `${name}: ${title}\n\n${plot(curve, 5).join("\n")}\n    └${"─".repeat(curve.length)}\n     ${shown}\n\nmultiplier of the learning rate at step t of T, with W steps of warm-up\n${indent(equation)}${options.length === 0 ? "" : `\nlr_scheduler_kwargs\n${table(options)}`}\n${lines([["use", use], ["source", source]])}`,
    json: { name, title, equation, options: Object.fromEntries(options), use, source, example, curve },
  };
}

/** Bytes of state a parameter, counted on what the optimizer would allocate: for a 512 x 512 matrix where it takes one, and an adapter of rank 8 on it. */
function stateOf(entry: OptimizerEntry): { readonly states: string; readonly measured: readonly (readonly [string, number])[] } {
  const optimizer = entry.make("scaling" in entry.defaults ? { scaling: 1 } : {}), of = (...shape: number[]): Store => zeroStore(shape, "f32", "p");
  const pair = { lora_A: { weight: of(8, 512) }, lora_B: { weight: of(512, 8) } }, needsPairs = "scaling" in entry.defaults || entry.name === "riemannian";
  const share = (tree: unknown, n: number): number => stateBytes(optimizer, tree) / n;
  return {
    states: Object.entries(entry.state).map(([name, bytes]) => `${name} ${bytes}`).join(", ") || "none",
    measured: [...(needsPairs ? [] : [["a 512 x 512 matrix", share({ weight: of(512, 512) }, 512 * 512)] as const]), ["its adapter of rank 8", share(pair, 2 * 8 * 512)]],
  };
}

const shown = (value: unknown): string => (typeof value === "number" && value !== 0 && Math.abs(value) < 1e-3 ? value.toExponential() : String(value));
/** Keys of a recipe that say what an option is: weight_decay always; Adam's always, or where a recipe changes them. */
const shared: Readonly<Record<string, keyof Recipe>> = { weight_decay: "weight_decay", beta1: "adam_beta1", beta2: "adam_beta2", eps: "adam_epsilon" };
function recipeKey(key: string, { keys, moments }: OptimizerAbout): { readonly key: keyof Recipe; readonly text: string } | null {
  const name = shared[key];
  if (name === undefined || (key.startsWith("beta") && keys[key].index === null)) return null;
  return { key: name, text: name === "weight_decay" || moments === "always" ? `a recipe's: ${name}, ${JSON.stringify(defaultRecipe[name])}` : `a recipe's: ${name}, where it is not ${JSON.stringify(defaultRecipe[name])}` };
}

/** One optimizer, or all of them with a line each. */
export function explainOptimizer(name: string | null): Answer {
  if (name === null) {
    const all = optimizerEntries.map((e) => ({ name: e.name, aliases: e.aliases, title: aboutOptimizer(e.name).title, use: aboutOptimizer(e.name).use }));
    return { text: `optimizers (optim); adjoint explain optimizer NAME tells the rest\n\n${table(all.map((o) => [o.name, `${o.title}: ${o.use}`]))}`, json: { optimizers: all } };
  }
  const about = aboutOptimizer(name), { title, equations, keys, use, source, aliases } = about, { states, measured } = stateOf(about);
  const wide = Math.max(...Object.values(keys).map((k) => shown(k.default).length)), recipes = Object.keys(keys).map((key) => recipeKey(key, about));
  const options = Object.entries(keys).map(([key, k], i): [string, string] => [key, recipes[i] === null ? shown(k.default) : `${padEnd(shown(k.default), wide)}  ${recipes[i].text}`]), bytes = measured.map(([what, b]) => `${b.toFixed(2)} of ${what}`).join(", ");
  return {
    text: `${about.name}: ${title}\n\none step of a parameter p: gradient g, rate lr, decay λ, t updates so far\n${indent(equations)}\noptim_args and their defaults\n${table(options)}\n${lines([["rate", `${shown(about.defaults["learningRate"])}; a recipe's: learning_rate`], ["state", states], ["bytes", `a parameter: ${bytes}`], ["use", use], ["source", source], ...(aliases.length === 0 ? [] : [["names", [about.name, ...aliases].join(", ")] as const])])}`,
    json: { name: about.name, aliases, title, equations, options: Object.fromEntries(Object.entries(keys).map(([key, k]) => [key, k.default])), recipe_keys: Object.fromEntries(Object.keys(keys).flatMap((key, i) => (recipes[i] === null ? [] : [[key, recipes[i].key]]))), learning_rate: about.defaults["learningRate"], state: about.state, bytes_per_parameter: Object.fromEntries(measured), use, source },
  };
}
