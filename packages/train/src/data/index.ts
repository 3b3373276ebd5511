/** Training data: files, tokenising, packing, batches, reports. */
export { DataSet, type BatchOptions, type DataSetOptions, type GroupOptions } from "./dataset.ts";
export { firstBytes, measured, type MeasuredOptions } from "./heldout.ts";
export { idsData, idsRows, type IdsOptions } from "./ids.ts";
export { numbers, numberWords, type NumberRow, type NumbersOptions } from "./numbers.ts";
export { pack, packingStrategies, type PackingStrategy } from "./pack.ts";
export { dataReport, formatDataReport, reportRows, wantsColor, type DataReport, type FormatOptions, type LengthBin, type ShownToken } from "./report.ts";
export { parseJsonLines, readRows, type CompletionRow, type ConversationRow, type Row, type RowKind, type TextRow } from "./rows.ts";
export { collate, IGNORED, LENGTH_STEP, predictedTokens, type HostBatch, type Sample } from "./sample.ts";
export { Batch, toTensors } from "./tensors.ts";
export { TextData, textData, type DataSource, type SplitRows, type TextDataOptions } from "./text-data.ts";
export { tokenizeRows, type Tokenized, type TokenizeOptions } from "./tokenize.ts";
