/** @adjoint/tiny: the bundled base model, and the texts that it was trained and is tuned on. */
export { model, modelFiles, type Text } from "./files.ts";
export { jobFindings, type JobFindings, type Point } from "./findings.ts";
export { overlap, sharedPassages, without, type Overlap, type Passage } from "./overlap.ts";
export { QUOTATION, quotations } from "./quotations.ts";
export { addresses, allAddresses, mobyDick, type Addresses, type Chapters } from "./texts.ts";
export { xz, type Yardstick } from "./yardstick.ts";
