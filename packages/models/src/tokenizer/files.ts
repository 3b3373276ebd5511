/** A tokenizer as the files of a Hugging Face folder, and out of them. */
import { decodeText, parseJsonObject } from "@adjoint/io";
import { checkTokenizer } from "./format.ts";
import type { TrainedTokenizer } from "./train.ts";

/** tokenizer.json and tokenizer_config.json, by name: what a model's or an adapter's folder holds beside the weights. */
export const tokenizerFiles = ({ tokenizerJson, config }: TrainedTokenizer): Record<string, string> => ({
  "tokenizer.json": JSON.stringify(tokenizerJson), "tokenizer_config.json": `${JSON.stringify(config, null, 2)}\n`,
});

/** The tokenizer among files by name; null without a tokenizer.json. @throws FormatError naming the file */
export function tokenizerAmong(files: Readonly<Record<string, string | Uint8Array>>): TrainedTokenizer | null {
  const text = (name: string): string | null => { const file = files[name]; return file === undefined ? null : typeof file === "string" ? file : decodeText(file, name); };
  const json = text("tokenizer.json"), config = text("tokenizer_config.json"), template = text("chat_template.jinja");
  if (json === null) return null;
  return { tokenizerJson: checkTokenizer(parseJsonObject(json, "tokenizer.json"), "tokenizer.json"), config: { ...(config === null ? {} : parseJsonObject(config, "tokenizer_config.json")), ...(template === null ? {} : { chat_template: template }) } };
}
