/**
 * A GPU that is lost in the middle of a run: the run says so, and goes on from its last checkpoint on a new device. In the long
 * form only (ADJOINT_RUNS): a software GPU compiles the step's kernels twice.
 */
import { readFileSync } from "node:fs";
import { lora } from "@adjoint/lora";
import { loadModel } from "@adjoint/models";
import { DeviceError, setDevice } from "@adjoint/tensor";
import { fixture, golden } from "@adjoint/testing/fixtures";
import { adapters, webgpu } from "@adjoint/webgpu";
import { expect, test } from "vitest";
import { adapterTrainee, idsRows, latestCheckpoint, loadCheckpoint, loraOptions, mergeRecipe, readCheckpoint, type Recipe, saveCheckpoint, Training, trainingOptions } from "../src/index.ts";
import { temporary } from "./support.ts";

const [adapter] = await adapters().catch(() => []);
const rows = golden("llama/tiny")["rows"] ?? JSON.parse(readFileSync(fixture("llama/tiny/ids.json"), "utf8"));
const recipe = mergeRecipe({ per_device_train_batch_size: 2, max_steps: 5, learning_rate: 1e-2, warmup_steps: 1, lora_r: 2, init_lora_weights: false, seed: 7 });
const start = async (r: Recipe): Promise<Training> => {
  const model = await loadModel(fixture("llama/tiny"), { tokenizer: false });
  return new Training(adapterTrainee(lora(model, { ...loraOptions(r, null), seed: r.seed })), trainingOptions(r, idsRows(rows, "rows")));
};

/** The implementation, with every device that it has given. */
async function watched(): Promise<{ readonly gpu: GPU; readonly devices: GPUDevice[] }> {
  const { create } = await import("webgpu"), real = create([]), devices: GPUDevice[] = [];
  const gpu = { requestAdapter: async (options?: GPURequestAdapterOptions) => {
    const found = await real.requestAdapter(options);
    return found && new Proxy(found, { get: (t, key) => {
      if (key === "requestDevice") return async (d?: GPUDeviceDescriptor) => { const device = await t.requestDevice(d); devices.push(device); return device; };
      const v: unknown = Reflect.get(t, key, t);
      return typeof v === "function" ? v.bind(t) as unknown : v;
    } });
  } };
  return { gpu: gpu as unknown as GPU, devices };
}

test.runIf(process.env["ADJOINT_RUNS"] !== undefined && adapter !== undefined)("a lost device ends the run with what to do, and the last checkpoint goes on", async () => {
  const { gpu, devices } = await watched(), device = setDevice(await webgpu({ gpu, allowSoftware: true })), folder = temporary();
  const whole = await start(recipe), losses: number[] = [];
  for await (const m of whole.run()) losses.push(m.loss);

  const cut = await start(recipe);
  await cut.next();
  await cut.next();
  await saveCheckpoint(cut, { folder, recipe });
  devices[devices.length - 1].destroy();
  const failed = await (async () => { for (let i = 0; i < 3; i++) await cut.next(); })().catch((e: unknown) => e);
  expect(failed).toBeInstanceOf(DeviceError);
  expect((failed as DeviceError).message).toMatch(/lost[\s\S]*resume from the last checkpoint/);

  const again = await start(recipe), rest: number[] = [];
  expect(await loadCheckpoint(again, recipe, await readCheckpoint(await latestCheckpoint(folder)))).toEqual([]);
  expect(again.step).toBe(2);
  for await (const m of again.run()) rest.push(m.loss);
  expect(devices.length).toBe(2);
  expect(rest).toEqual(losses.slice(2));
  await device.close?.();
}, 900_000);
