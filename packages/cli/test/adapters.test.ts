/** Kinds of adapters on the command line: what trains, what goes on, what comes out, and what is refused by name. */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { readAdapterDirectory } from "@adjoint/lora";
import { fixture } from "@adjoint/testing/fixtures";
import { expect, test } from "vitest";
import { adjoint, exact, temporary } from "./support.ts";

const model = fixture("llama/tiny"), ids = join(model, "ids.json"), targets = ["--lora-target-modules", "q_proj,down_proj", "--lora-r", "2"];
const words = (folder: string, ...more: string[]): string[] => ["finetune", "--model", model, "--ids", ids, "--per-device-train-batch-size", "2", "--output-dir", folder, ...targets, ...more, ...exact];

test("PiSSA goes on from the first factors in its checkpoint, and its files fit the base as it is", async () => {
  const [a, b] = [join(temporary(), "a"), join(temporary(), "b")], own = ["--init-lora-weights", "pissa", "--max-steps", "4", "--save-steps", "2", "--quiet"];
  for (const folder of [a, b]) expect(await adjoint(words(folder, ...own))).toMatchObject({ code: 0 });
  expect(await adjoint(words(b, ...own, "--resume", join(b, "checkpoint-2")))).toMatchObject({ code: 0 });
  const [x, y] = [a, b].map((f) => readFileSync(join(f, "adapter", "adapter_model.safetensors")));
  expect(y.equals(x)).toBe(true);
  expect((await readAdapterDirectory(join(a, "adapter"))).config).toMatchObject({ r: 4, initLoraWeights: true });
});

test("AdaLoRA, DoRA and VeRA name themselves, and inspect tells them from their files", async () => {
  for (const [flags, title, line] of [[["--peft-type", "ADALORA", "--tfinal", "1"], "AdaLoRA", /AdaLoRA adapter, r 3 to 2/], [["--use-dora"], "rsDoRA", /rsDoRA adapter, r 2/], [["--peft-type", "VERA"], "VeRA", /VeRA adapter, r 2, scale 1/]] as const) {
    const folder = join(temporary(), "run"), { code, err } = await adjoint(words(folder, ...flags, "--max-steps", "3"));
    expect(code, err).toBe(0);
    expect(err).toContain(title);
    expect((await adjoint(["inspect", folder])).out).toMatch(line);
  }
});

test("pretrain --relora writes one model, and finetune goes on from it", async () => {
  const folder = temporary(), config = join(folder, "config.json"), ran = join(folder, "run"), more = ["--lr-scheduler-type", "relora_cosine_restarts", "--relora", "2", "--relora-warmup", "1"];
  writeFileSync(config, readFileSync(join(model, "config.json"), "utf8"));
  const { code, err, out } = await adjoint(["pretrain", "--config-name", config, "--ids", ids, "--max-steps", "4", "--warmup-steps", "0", "--warmup-ratio", "0", "--per-device-train-batch-size", "2", "--lora-r", "2", ...more, "--output-dir", ran, "--json", ...exact]);
  expect(code, err).toBe(0);
  expect(err).toContain("step 3: merge 1 into the base, moments set to zero");
  expect(JSON.parse(out)).toMatchObject({ status: "done", model: join(ran, "model") });
  // warm start: in one run, or from the checkpoint of a full training, which is a model's folder
  const warm = ["pretrain", "--config-name", config, "--ids", ids, "--max-steps", "6", "--warmup-steps", "0", "--warmup-ratio", "0", "--per-device-train-batch-size", "2", "--lora-r", "2", ...more, "--relora-warm-start", "2", "--json", ...exact, "--output-dir"];
  const one = await adjoint([...warm, join(folder, "warm")]);
  expect(one.code, one.err).toBe(0);
  expect(one.err).toMatch(/each 2 steps +1 in all, moments set to zero +the first 2 steps train all weights[^]*step 2: all weights have trained[^]*step 5: merge 1/);
  expect((await adjoint(["pretrain", "--config-name", config, "--ids", ids, "--max-steps", "2", "--save-steps", "1", "--per-device-train-batch-size", "2", "--output-dir", join(folder, "full"), "--quiet", ...exact])).code).toBe(0);
  const again = await adjoint(["finetune", "--model", join(folder, "full", "checkpoint-1"), "--ids", ids, "--max-steps", "2", "--per-device-train-batch-size", "2", ...targets, "--relora", "1", "--relora-train-rest", "--output-dir", join(folder, "more"), "--json", ...exact]);
  expect(again.code, again.err).toBe(0);
});

test("combine: two adapters as one, exactly", async () => {
  const out = join(temporary(), "both"), [a, b] = ["lora", "rslora"].map((name) => fixture(`peft/${name}/adapter`));
  const { code, err, out: text } = await adjoint(["combine", a, b, "--model", model, "--weights", "1,0", "--type", "cat", "--output-dir", out, "--json", ...exact]);
  expect(code, err).toBe(0);
  expect(JSON.parse(text)).toMatchObject({ adapter: out, type: "cat" });
  const loss = async (adapter: string): Promise<number> => (JSON.parse((await adjoint(["eval", "--model", model, "--adapter", adapter, "--ids", ids, "--json", ...exact])).out) as { loss: number }).loss;
  expect(await loss(out)).toBeCloseTo(await loss(a), 5);
  expect((await adjoint(["combine", a, b, "--model", model, "--weights", "1", "--output-dir", out])).err).toMatch(/--weights 1 for 2 adapters\n {2}fix: give 2 numbers/);
});

test("what has no meaning is refused by name", async () => {
  const folder = join(temporary(), "bad");
  for (const [flags, text] of [
    [["--tinit", "3"], /tinit goes with peft_type: ADALORA/], [["--init-lora-weights", "piza"], /init-lora-weights.*is not valid\n {2}fix: use true, false, or one of gaussian/], [["--relora-cycle", "3"], /relora_cycle goes with relora/],
    [["--peft-type", "VERA", "--use-dora"], /recipe: use_dora = true is not for VeRA/], [["--peft-type", "ADALORA", "--relora", "2"], /relora with peft_type ADALORA/], [["--no-use-peft", "--use-dora"], /use_dora is about an adapter, and all weights train/],
    [["--init-adapter", fixture("peft/lora/adapter"), "--use-dora"], /use_dora and init_adapter/], [["--init-batches", "2"], /init_batches goes with eva/], [["--peft-type", "ADALORA", "--optim", "lora_fa"], /optim lora_fa is about the pair B A/],
  ] as const) {
    const { code, err } = await adjoint(words(folder, "--max-steps", "2", ...flags));
    expect([flags, code]).toEqual([flags, 1]);
    expect(err).toMatch(text);
  }
});
