/** What full fine-tuning forgot at the point that the bundled job reaches: measured once for that job, so told beside no other. */
import * as tiny from "@adjoint/tiny";
import { configHash, mergeRecipe, parseRecipe, type Recipe } from "@adjoint/train";
import { BUNDLED } from "./open.ts";

/** Whether two recipes train the same thing on the same data. */
function sameJob(a: Recipe, b: Recipe): boolean {
  const data = ({ dataset_name, old_dataset_name, eval_dataset_name, ids, init_adapter, tokenizer_name, model_name_or_path: model }: Recipe): string =>
    JSON.stringify([dataset_name, old_dataset_name, eval_dataset_name, ids, init_adapter, tokenizer_name, model === BUNDLED ? null : model]);
  return configHash(a) === configHash(b) && data(a) === data(b);
}

/** Share of the old domain's bits per byte that full fine-tuning forgot, in per cent; null for any run but the measured one. */
export function forgottenInFull(recipe: Recipe): number | null {
  const { recipe: job, before, full } = tiny.jobFindings();
  return sameJob(recipe, mergeRecipe(parseRecipe(JSON.stringify(job), "findings.json").values)) ? 100 * (full.old / before.old - 1) : null;
}
