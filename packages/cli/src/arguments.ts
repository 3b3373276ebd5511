/** Command lines: flags in kebab-case (underscores accepted), every recipe key among them, checked against one table a command. */
import { parseArgs } from "node:util";
import { nearest } from "@adjoint/lora";
import { ConfigError } from "@adjoint/tensor";
import { fields, flagValue, type Recipe, recipeKey } from "@adjoint/train";

/** A flag that is not a recipe key. */
export interface Flag {
  readonly kind: "flag" | "text" | "number";
  readonly help: string;
  /** what stands for the value in the help, such as DIR */
  readonly value?: string;
  readonly aliases?: readonly string[];
}

/** A command's own part of the command line. */
export interface Grammar {
  readonly name: string;
  readonly summary: string;
  /** further lines of the help */
  readonly text?: string;
  /** names of positional arguments for the help; the last may end in `...` */
  readonly positionals: readonly string[];
  readonly flags: Readonly<Record<string, Flag>>;
  /** recipe keys that are flags of this command */
  readonly keys: readonly (keyof Recipe)[];
  readonly examples: readonly string[];
}

export interface Arguments {
  /** the command line after the command's name, as it was given */
  readonly words: readonly string[];
  readonly positionals: readonly string[];
  /** recipe keys given as flags */
  readonly recipe: Partial<Recipe>;
  flag(name: string): boolean;
  text(name: string): string | null;
  number(name: string): number | null;
}

/** Flags of every command. */
export const globalFlags: Readonly<Record<string, Flag>> = {
  help: { kind: "flag", help: "this text", aliases: ["h"] },
  json: { kind: "flag", help: "the result as one JSON object on standard output" },
  quiet: { kind: "flag", help: "no progress, results and errors only", aliases: ["q"] },
  verbose: { kind: "flag", help: "errors with their stack" },
};

const kebab = (name: string): string => name.replaceAll("_", "-");

/** The command's name for a flag, if it has one. */
function resolver(grammar: Grammar): (name: string) => { readonly key?: keyof Recipe; readonly own?: string } | undefined {
  const own = { ...globalFlags, ...grammar.flags };
  return (given) => {
    const name = kebab(given);
    if (Object.hasOwn(own, name)) return { own: name };
    const alias = Object.entries(own).find(([, flag]) => flag.aliases?.includes(name))?.[0];
    if (alias !== undefined) return { own: alias };
    const key = recipeKey(name);
    return key !== undefined && grammar.keys.includes(key) ? { key } : undefined;
  };
}

/** @throws ConfigError for an unknown flag (with the nearest known), a missing or bad value */
export function parseArguments(argv: readonly string[], grammar: Grammar): Arguments {
  const find = resolver(grammar), own = { ...globalFlags, ...grammar.flags };
  const isFlag = (found: ReturnType<typeof find>): boolean => (found?.key !== undefined ? fields[found.key].kind === "flag" : found?.own !== undefined && own[found.own].kind === "flag");
  // names in one spelling; `--flag true` as `--flag=true`
  const words: string[] = [];
  for (let i = 0; i < argv.length; i++) {
    const word = argv[i];
    if (word === "--") { words.push(...argv.slice(i)); break; }
    const [, dashes, name, value] = /^(--?)([A-Za-z][\w-]*)(=[^]*)?$/.exec(word) ?? [];
    if (dashes === undefined) { words.push(word); continue; }
    const next = argv[i + 1], found = find(name);
    if (isFlag(found)) {
      const takes = value === undefined && (next === "true" || next === "false");
      words.push(`--${kebab(name)}${takes ? `=${next}` : (value ?? "")}`);
      if (takes) i++;
    } else if (found !== undefined) {
      if (value === undefined && (next === undefined || next.startsWith("--"))) throw new ConfigError(`${word} needs a value`, { key: word, fix: `write ${word} VALUE` });
      words.push(`--${kebab(name)}${value ?? `=${next}`}`);
      if (value === undefined) i++;
    } else words.push(`--${kebab(name)}${value ?? ""}`);
  }
  const { tokens } = parseArgs({ args: words, strict: false, tokens: true, allowPositionals: true });
  const recipe: Record<string, unknown> = {}, values = new Map<string, string | boolean>(), positionals: string[] = [];
  for (const token of tokens) {
    if (token.kind === "positional") positionals.push(token.value);
    if (token.kind !== "option") continue;
    const negated = find(token.name) === undefined && token.name.startsWith("no-") && isFlag(find(token.name.slice(3)));
    const found = find(negated ? token.name.slice(3) : token.name), origin = `--${token.name}`;
    if (found === undefined) throw unknownFlag(token.name, grammar, Object.keys(own));
    const text = negated ? "false" : (token.value ?? "true");
    if (negated && token.value !== undefined) throw new ConfigError(`${origin} takes no value`, { key: origin, value: token.value, fix: `write ${origin} alone` });
    if (found.key !== undefined) recipe[found.key] = flagValue(found.key, text);
    else if (found.own !== undefined) {
      const { kind } = own[found.own];
      if (kind === "flag" && text !== "true" && text !== "false") throw new ConfigError(`${origin} = ${text} is not true or false`, { key: origin, value: text, fix: `write ${origin} alone` });
      if (kind === "number" && !Number.isFinite(Number(text === "" ? Number.NaN : text))) throw new ConfigError(`${origin} = ${text} is not a number`, { key: origin, value: text, fix: "give a number" });
      values.set(found.own, kind === "flag" ? text === "true" : text);
    }
  }
  const most = grammar.positionals.some((p) => p.endsWith("...")) ? Infinity : grammar.positionals.length;
  if (positionals.length > most) {
    throw new ConfigError(`adjoint ${grammar.name}: "${positionals[most]}" is one argument too many`, { key: positionals[most], value: positionals[most], fix: most === 0 ? "flags begin with --" : `usage: ${usage(grammar)}` });
  }
  return {
    words: argv,
    positionals,
    recipe,
    flag: (name) => values.get(name) === true,
    text: (name) => { const v = values.get(name); return typeof v === "string" ? v : null; },
    number: (name) => { const v = values.get(name); return typeof v === "string" ? Number(v) : null; },
  };
}

function unknownFlag(name: string, grammar: Grammar, own: readonly string[]): ConfigError {
  const known = [...own, ...grammar.keys.flatMap((key) => [key, ...(fields[key].aliases ?? [])].map(kebab))];
  const near = nearest(name, known, 1)[0], other = recipeKey(name) !== undefined;
  return new ConfigError(`adjoint ${grammar.name}: there is no flag --${name}`, {
    key: `--${name}`, fix: other ? `adjoint ${grammar.name} does not use it` : near === undefined ? `adjoint ${grammar.name} --help lists all flags` : `did you mean --${near}?`,
  });
}

export const usage = (g: Grammar): string => ["adjoint", g.name, ...g.positionals, "[flags]"].join(" ");

const groups = { model: "model", data: "data", training: "training", adapter: "adapter", run: "run", machine: "machine" } as const;

/** The text of `--help`. */
export function help(grammar: Grammar, defaults: Partial<Recipe>): string {
  const line = (names: string, text: string): string => (names.length > 32 ? `  ${names}\n${" ".repeat(36)}${text}` : `  ${names.padEnd(33)} ${text}`);
  const shown = (v: unknown): string => (v === null || v === undefined || (Array.isArray(v) && v.length === 0) || (typeof v === "object" && Object.keys(v).length === 0) ? "" : ` [${Array.isArray(v) ? v.join(",") : typeof v === "string" ? v : JSON.stringify(v)}]`);
  const parts = [`${grammar.summary}\n\nusage: ${usage(grammar)}`];
  if (grammar.text !== undefined) parts.push(grammar.text);
  const placeholder = { text: "TEXT", number: "N", flag: "" };
  const own = Object.entries({ ...grammar.flags, ...globalFlags }).map(([name, f]) =>
    line(`--${name}${f.kind === "flag" ? "" : ` ${f.value ?? placeholder[f.kind]}`}${(f.aliases ?? []).map((a) => (a.length === 1 ? `, -${a}` : `, --${a}`)).join("")}`, f.help));
  parts.push(`flags\n${own.join("\n")}`);
  const kinds = { text: " TEXT", texts: " A,B", integer: " N", number: " X", flag: "", map: " K=V,..", indices: " N,.." };
  for (const [group, title] of Object.entries(groups)) {
    const keys = grammar.keys.filter((key) => fields[key].group === group);
    if (keys.length === 0) continue;
    parts.push(`${title}\n${keys.map((key) => {
      const f = fields[key], alias = f.aliases?.[0];
      const negative = f.kind === "flag" && defaults[key] === true ? "no-" : "";
      return line(`--${negative}${kebab(key)}${f.choices === undefined || f.choices.length > 8 ? kinds[f.kind] : ` ${[...f.choices, ...(f.boolean === true ? ["true", "false"] : [])].join("|")}`}${alias === undefined || negative !== "" ? "" : `, --${kebab(alias)}`}`, `${negative === "" ? "" : "not: "}${f.help}${shown(defaults[key])}`);
    }).join("\n")}`);
  }
  if (grammar.keys.length > 10) parts.push("Every key also works in a YAML recipe, with underscores.");
  if (grammar.examples.length > 0) parts.push(`examples\n${grammar.examples.map((e) => `  ${e}`).join("\n")}`);
  return `${parts.join("\n\n")}\n`;
}
