/** Names of adapters: they become folders, keys of trees and words in messages. */
import { ConfigError } from "@adjoint/tensor";
import { nearest } from "../targets/nearest.ts";

/** PEFT's word for a row without an adapter. */
export const BASE = "__base__";

/** @throws ConfigError unless a new adapter may have this name: letters, digits, "_" and "-", no "lora_" (PEFT would misread keys), not one in use */
export function checkName(name: string, taken: Iterable<string>): void {
  const bad = (problem: string, fix: string): never => { throw new ConfigError(`an adapter cannot be called ${JSON.stringify(name)}: ${problem}`, { key: "name", value: name, fix }); };
  if (name === BASE || name.startsWith("__")) bad("names that begin with __ are words of their own", "choose another name");
  if (!/^[A-Za-z0-9_-]+$/.test(name)) bad("it becomes a folder and a part of paths", "use letters, digits, _ and - alone");
  if (name.includes("lora_")) bad("PEFT finds factors by names with lora_", "leave lora_ out of the name");
  if ([...taken].includes(name)) bad("there is one of this name", "choose another name, or delete that one first");
}

/** As `checkName`, for a folder that holds an adapter. */
export function checkFolder(name: string, folder: string, taken: Iterable<string>): void {
  try {
    checkName(name, taken);
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    const like = name.replaceAll(/[^A-Za-z0-9_-]/g, "_").replace(/^__+/, "");
    throw new ConfigError(`${folder}: ${error.message.split("\n")[0]}`, { op: "loadAdapters", key: "name", value: name, fix: `rename the folder, or load each adapter under a name of your own: await adapterSet(model).load(${JSON.stringify(like === "" ? "a" : like)}, ${JSON.stringify(folder)})` });
  }
}

/** @throws ConfigError for an option that `op` does not have */
export function checkOptions(op: string, options: object, known: readonly string[]): void {
  const key = Object.keys(options).find((k) => !known.includes(k));
  if (key !== undefined) throw new ConfigError(`${op}: ${key} is not an option`, { op, key, value: Reflect.get(options, key), fix: `options: ${known.join(", ")}` });
}

/** @throws ConfigError with near names for an adapter that is not there */
export function unknownName(name: string, names: readonly string[]): never {
  const near = nearest(name, names);
  throw new ConfigError(`there is no adapter ${JSON.stringify(name)}`, { key: "name", value: name, fix: names.length === 0 ? "add one first: set.add(name, options)" : near.length > 0 ? `did you mean ${near.join(" or ")}?` : `adapters: ${names.join(", ")}` });
}
