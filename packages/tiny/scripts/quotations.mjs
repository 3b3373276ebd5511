/** Finds the passages of training addresses that a held-out address repeats, and writes their places to src/quotations.ts. */
import { writeFileSync } from "node:fs";
import { load } from "./bundle.mjs";

const { allAddresses, sharedPassages, QUOTATION } = await load(`
  export { allAddresses } from "../src/texts.ts";
  export { sharedPassages } from "../src/overlap.ts";
  export { QUOTATION } from "../src/quotations.ts";
`);
const { train, development, test } = allAddresses();
const found = sharedPassages([...test, ...development].map(({ text }) => text), train.map(({ text }) => text), QUOTATION);
const entries = train.flatMap(({ name }, i) => (found[i].length === 0 ? [] : [`  "${name}": ${JSON.stringify(found[i]).replaceAll("],[", "], [").replaceAll(/(\d),(\d)/g, "$1, $2")},`]));
writeFileSync(new URL("../src/quotations.ts", import.meta.url), `/** Passages of training addresses that a test or development address repeats word for word; written by scripts/quotations.mjs. */
import type { Passage } from "./overlap.ts";

/** Characters from which a repeated passage counts as a quotation. */
export const QUOTATION = ${QUOTATION};

/** Start and length (UTF-16 units) of each quotation, by the name of the training address. */
export const quotations: Readonly<Record<string, readonly Passage[]>> = {
${entries.join("\n")}
};
`);
console.log(`${found.flat().length} passages, ${found.flat().reduce((sum, [, length]) => sum + length, 0)} characters`);
