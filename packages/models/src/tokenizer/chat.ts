/** Chat templates: Jinja text that turns messages into a prompt, with the spans that the assistant wrote. */
import { Template } from "@huggingface/jinja";
import { ConfigError } from "@adjoint/tensor";

/** One turn of a conversation. */
export interface Message {
  readonly role: string;
  readonly content: string;
  readonly [key: string]: unknown;
}

/** Options of `applyChatTemplate`; further keys are handed to the template as they are. */
export interface ChatOptions {
  /** end with the assistant's header, so that the model answers (default false) */
  readonly addGenerationPrompt?: boolean;
  readonly tools?: readonly unknown[];
  readonly documents?: readonly unknown[];
  /** template text instead of the tokenizer's own */
  readonly chatTemplate?: string;
  /** further variables of the template */
  readonly variables?: Readonly<Record<string, unknown>>;
}

/** A rendered conversation and the spans [start, end) of `{% generation %}` blocks, in UTF-16 units. */
export interface RenderedChat {
  readonly text: string;
  readonly assistant: readonly (readonly [number, number])[];
}

const START = "\uF8F0";
const END = "\uF8F1";

/**
 * Renders messages by a template as Transformers does (trim_blocks and lstrip_blocks on).
 *
 * @throws ConfigError when the template does not parse or refuses the messages
 * Source: Transformers, utils/chat_template_utils.py
 */
export function renderChat(template: string, messages: readonly Message[], tokens: Readonly<Record<string, string>>, options: ChatOptions, file: string): RenderedChat {
  const marked = template
    .replace(/^[ \t]*(?=\{[%#])/gm, "") // lstrip_blocks, before lines are joined
    .replace(/\{%(-?)\s*(end)?generation\s*(-?)%\}\n?/g, (_: string, left: string, end: string | undefined, right: string) => `{{${left}'${end === undefined ? START : END}'${right}}}`);
  let text: string;
  try {
    text = new Template(marked).render({
      ...tokens,
      messages,
      add_generation_prompt: options.addGenerationPrompt ?? false,
      ...(options.tools === undefined ? {} : { tools: options.tools }),
      ...(options.documents === undefined ? {} : { documents: options.documents }),
      ...options.variables,
    });
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new ConfigError(`${file}: the chat template refused the messages: ${reason}`, {
      op: "applyChatTemplate", file, key: "chat_template", fix: "check roles and their order, or pass another chatTemplate", cause: error });
  }
  const assistant: [number, number][] = [];
  let plain = "";
  let start = -1;
  for (const piece of text.split(/([\uF8F0\uF8F1])/)) {
    if (piece === START) start = plain.length;
    else if (piece === END) assistant.push([start, plain.length]);
    else plain += piece;
  }
  return { text: plain, assistant };
}
