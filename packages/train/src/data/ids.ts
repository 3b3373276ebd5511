/** Pre-tokenised data: a JSON file with an array of rows of token ids; no tokenizer is needed. */
import { parseJson, readText } from "@adjoint/io";
import { FormatError } from "@adjoint/tensor";
import { DataSet } from "./dataset.ts";

/** Options of `idsData`. */
export interface IdsOptions {
  /** ids must lie below it, when given */
  readonly vocabSize?: number;
  /** id on padding, which is masked (default 0) */
  readonly padTokenId?: number;
}

/**
 * Reads rows of token ids; one row is one sample, as it is: nothing is added, packed or cut. Rows of a batch are right-padded and masked;
 * pass `shuffle: false` to keep the file's order.
 *
 * @throws FormatError naming file, row, position, value and fix
 */
export async function idsData(file: string | URL, options: IdsOptions = {}): Promise<DataSet> {
  const name = String(file);
  const value = parseJson(await readText(file), name, "write an array of rows of token ids: [[1, 5, 9], [2, 7]]");
  return idsRows(value, name, options);
}

/** The same from a parsed value; `name` names it in errors. */
export function idsRows(value: unknown, name: string, { vocabSize, padTokenId = 0 }: IdsOptions = {}): DataSet {
  const bad = (problem: string, key: string, found: unknown, fix: string): FormatError => new FormatError(`${name}: ${problem}`, { file: name, key, value: found, fix });
  if (!Array.isArray(value) || value.length === 0) throw bad("not an array of rows", "rows", value, "write an array of rows of token ids: [[1, 5, 9], [2, 7]]");
  const samples = value.map((row: unknown, i) => {
    if (!Array.isArray(row) || row.length === 0) throw bad(`row ${i} is not an array of token ids`, `[${i}]`, row, "write each row as [1, 5, 9]; drop empty rows");
    const ids = row.map((id: unknown, j) => {
      if (typeof id !== "number" || !Number.isInteger(id) || id < 0 || id > 0x7fffffff) throw bad(`row ${i}, position ${j}: ${JSON.stringify(id)} is not a token id`, `[${i}][${j}]`, id, "ids are whole numbers from 0");
      if (vocabSize !== undefined && id >= vocabSize) throw bad(`row ${i}, position ${j}: id ${id}, but the model has ${vocabSize} tokens`, `[${i}][${j}]`, id, `ids go from 0 to ${vocabSize - 1}: tokenise with this model's tokenizer`);
      return id;
    });
    return { ids, labels: ids };
  });
  return new DataSet(samples, { padTokenId, name });
}
