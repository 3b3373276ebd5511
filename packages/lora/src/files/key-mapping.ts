/** `keyMapping`: names of a file rewritten for a model whose modules are called otherwise, by PEFT's rules and in linear time. */
import { ConfigError } from "@adjoint/tensor";
import { compilePattern, type PatternMatch } from "../targets/pattern.ts";
import { PREFIX } from "./peft-keys.ts";

/** Expression -> replacement; the first expression that is found in a name (without `base_model.model.`) rewrites all of its places, and the rest are not tried. */
export type KeyMapping = Readonly<Record<string, string>>;

const key = "keyMapping";

/** The first match at or after a position, as `re.search` finds it; group 1 of what is compiled is the text before. */
function search(source: string, text: string, from: number): { readonly start: number; readonly match: PatternMatch } | null {
  const match = compilePattern(`((?:.|\\n){${from},}?)(?:${source})`, { key: `${key}[${JSON.stringify(source)}]` }).match(text);
  return match === null ? null : { start: [...(match.groups[1] ?? "")].length, match };
}

/** A replacement in Python's spelling: \1, \g<1>, \g<name> stand for what the groups matched, \\ for a backslash. */
function expand(template: string, match: PatternMatch): string {
  return template.replaceAll(/\\(?:(\d{1,2})|g<(\w+)>|(\\)|(.?))/g, (whole, number: string | undefined, name: string | undefined, slash: string | undefined) => {
    if (slash !== undefined) return "\\";
    const at = number ?? name;
    if (at === undefined) throw new ConfigError(`${key}: ${whole} in ${JSON.stringify(template)} stands for nothing`, { key, value: template, fix: "use \\1, \\g<1>, \\g<name> or \\\\" });
    if (!/^\d+$/.test(at)) {
      if (!match.named.has(at)) throw new ConfigError(`${key}: ${JSON.stringify(template)} names a group ${at} that the expression lacks`, { key, value: template });
      return match.named.get(at) ?? "";
    }
    const index = Number(at) + 1; // group 1 is the text before
    if (index >= match.groups.length || Number(at) === 0) throw new ConfigError(`${key}: ${JSON.stringify(template)} names group ${at}, which the expression lacks`, { key, value: template, fix: "groups count from 1" });
    return match.groups[index] ?? "";
  });
}

/** `re.subn` of one expression; null where it is not found. */
function substitute(source: string, template: string, text: string): string | null {
  const chars = [...text];
  let out = "", at = 0;
  for (let found = search(source, text, 0); found !== null; found = at <= chars.length ? search(source, text, at) : null) {
    const { start, match } = found;
    if (match.end === start) throw new ConfigError(`${key}: ${JSON.stringify(source)} matches nothing at all`, { key, value: source, fix: "use an expression that needs at least one character" });
    out += chars.slice(at, start).join("") + expand(template, match);
    at = match.end;
  }
  return at === 0 ? null : out + chars.slice(at).join("");
}

/** The name as the mapping has it; itself where no expression is found. @throws ConfigError for an expression or a replacement that cannot be used */
export function mapKey(name: string, mapping: KeyMapping): string {
  const prefix = [PREFIX, "base_model."].find((p) => name.startsWith(p)) ?? "", inner = name.slice(prefix.length);
  for (const [source, template] of Object.entries(mapping)) {
    compilePattern(source, { key: `${key}[${JSON.stringify(source)}]` }); // its errors show the expression as it was given
    const mapped = substitute(source, template, inner);
    if (mapped !== null) return prefix + mapped;
  }
  return name;
}
