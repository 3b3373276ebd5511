/** Trains the bundled tokenizer on the training addresses and writes model/tokenizer.json and model/tokenizer_config.json. */
import { mkdirSync, writeFileSync } from "node:fs";
import { load } from "./bundle.mjs";

const { addresses, mobyDick, trainTokenizer, loadTokenizer } = await load(`
  export { addresses, mobyDick } from "../src/index.ts";
  export { trainTokenizer, loadTokenizer } from "../../models/src/tokenizer/index.ts";
`);
const texts = addresses();
const trained = trainTokenizer(texts.train.map(({ text }) => text), { vocabSize: 2048, modelMaxLength: 512 });
const folder = new URL("../model/", import.meta.url);
mkdirSync(folder, { recursive: true });
writeFileSync(new URL("tokenizer.json", folder), `${JSON.stringify(trained.tokenizerJson)}\n`);
writeFileSync(new URL("tokenizer_config.json", folder), `${JSON.stringify(trained.config)}\n`);

const tokenizer = await loadTokenizer(trained);
const collections = { "training addresses": texts.train, "development addresses": texts.development, "test addresses": texts.test, "Moby-Dick, training": mobyDick().train, "Moby-Dick, test": mobyDick().test };
for (const [name, list] of Object.entries(collections)) {
  const bytes = list.reduce((sum, { text }) => sum + Buffer.byteLength(text), 0);
  const tokens = list.reduce((sum, { text }) => sum + tokenizer.encode(text).length, 0);
  console.log(`${name.padEnd(24)}${String(list.length).padStart(4)} texts ${String(bytes).padStart(9)} bytes ${String(tokens).padStart(9)} tokens ${(bytes / tokens).toFixed(3)} bytes a token`);
}
