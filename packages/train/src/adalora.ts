/** AdaLoRA in a run: importance recorded with every step, ranks given up between steps by the budget (arXiv 2303.10512). */
import { RankAllocator, type Tuned } from "@adjoint/lora";
import type { CausalLM } from "@adjoint/models";
import { ConfigError } from "@adjoint/tensor";
import type { Routine } from "./routine.ts";

/** The budget of an AdaLoRA adapter, as a routine; it begins with the run, whose steps it counts. */
export function adaloraRoutine(tuned: Tuned<CausalLM>): Routine {
  let allocator: RankAllocator | null = null;
  const begun = (): RankAllocator => { if (allocator === null) throw new ConfigError("AdaLoRA's budget needs the steps of the run first", { op: "adaloraRoutine", fix: "call begin(steps)" }); return allocator; };
  return {
    name: "adalora",
    begin: (steps) => { allocator = new RankAllocator(tuned, steps); },
    observe: (gradients, skipped) => { begun().observe(gradients, skipped); },
    between: async ({ step }) => {
      const own = begun(), left = await own.allocate(step - 1);
      if (left === null || !own.final) return null;
      const ranks = Object.values(await own.ranks());
      return `step ${step}: ranks are settled: ${left} of ${own.start} triplets, ${Math.min(...ranks)} to ${Math.max(...ranks)} a module`;
    },
    state: async () => { const { arrays, final } = await begun().state(); return { values: { final: final ? 1 : 0 }, arrays }; },
    load: ({ values, arrays = {} }, step) => { begun().load({ arrays, final: values["final"] === 1 }, step); },
  };
}
