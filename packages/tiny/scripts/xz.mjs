/** Measures the xz yardstick: bits per byte of the test addresses given the training addresses (needs the `xz` command; 30 s). */
import { spawnSync } from "node:child_process";
import { load } from "./bundle.mjs";

const { addresses } = await load(`export { addresses } from "../src/index.ts";`);
const texts = addresses();
const join = (list) => Buffer.concat(list.map(({ text }) => Buffer.from(text)));
const size = (bytes) => {
  const { stdout, error, status } = spawnSync("xz", ["-9e", "--stdout"], { input: bytes, maxBuffer: 2 ** 28 });
  if (error !== undefined || status !== 0) throw error ?? new Error(`xz ended with ${status}`);
  return stdout.length;
};
const train = join(texts.train);
const test = join(texts.test);
const alone = size(train);
const both = size(Buffer.concat([train, test]));
console.log(`8 (${both} - ${alone}) / ${test.length} = ${((8 * (both - alone)) / test.length).toFixed(4)} bits per byte`);
