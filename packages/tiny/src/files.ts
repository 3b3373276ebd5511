/** Where the bundled model and the data packages lie. */

/** The folder of the bundled base model: config.json, model.safetensors, tokenizer.json, tokenizer_config.json, README.md. */
export const model: URL = new URL(/* @vite-ignore */ "../model/", import.meta.url);

/** The same files by name, as a page loads them: written so that bundlers find them and give each an address. */
export const modelFiles: Readonly<Record<string, URL>> = {
  "config.json": new URL("../model/config.json", import.meta.url),
  "model.safetensors": new URL("../model/model.safetensors", import.meta.url),
  "tokenizer.json": new URL("../model/tokenizer.json", import.meta.url),
  "tokenizer_config.json": new URL("../model/tokenizer_config.json", import.meta.url),
};

/** One text of a collection. */
export interface Text {
  readonly name: string;
  readonly text: string;
}

/**
 * The .txt files of a data package whose names pass `keep`, sorted by name.
 *
 * The files are read directly: the packages' own loaders would need 180 further packages.
 */
export function packageTexts(name: string, keep: (file: string) => boolean): Text[] {
  const fs = process.getBuiltinModule("node:fs");
  const { createRequire } = process.getBuiltinModule("node:module");
  const manifest = createRequire(import.meta.url).resolve(`${name}/package.json`);
  const folder = `${manifest.slice(0, -"package.json".length)}data`;
  const files = fs.readdirSync(folder).filter((file) => file.endsWith(".txt") && keep(file)).sort();
  return files.map((file) => ({ name: file.slice(0, -".txt".length), text: fs.readFileSync(`${folder}/${file}`, "utf8") }));
}
