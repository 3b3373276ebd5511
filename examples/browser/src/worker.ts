/** The run itself, in a worker so that the page stays awake: load, measure, train, measure, hand over the adapter. */
import { lora } from "@adjoint/lora";
import { generate, loadModel } from "@adjoint/models";
import { adamw, cosine } from "@adjoint/optim";
import { type Backend, setDevice } from "@adjoint/tensor";
import { modelFiles } from "@adjoint/tiny";
import { adapterTrainee, evaluate, textData, Training } from "@adjoint/train";
import type { DeviceChoice, Report, Request, Start, When } from "./protocol.ts";

const tell = (report: Report): void => { postMessage(report); };
/** characters; a tenth of the text is held out and must hold a few tokens */
const LEAST = 1000;
let running: AbortController | null = null;

addEventListener("message", ({ data }: MessageEvent<Request>) => {
  if (data.type === "stop") {
    running?.abort();
    return;
  }
  const controller = (running = new AbortController());
  run(data, controller.signal).catch((error: unknown) => { tell({ type: "error", message: error instanceof Error ? error.message : String(error) }); });
});

/** A GPU where there is a real one, else WebAssembly: on several threads where the page is cross-origin isolated. */
async function open(choice: DeviceChoice): Promise<{ readonly device: Backend; readonly name: string }> {
  if (choice !== "cpu" && "gpu" in navigator) {
    const { adapters, nameOf, webgpu } = await import("@adjoint/webgpu"), [adapter] = await adapters();
    if (adapter !== undefined && (choice === "webgpu" || !adapter.software)) return { device: await webgpu({ allowSoftware: true }), name: `WebGPU, ${nameOf(adapter)}` };
  }
  if (choice === "webgpu") throw new Error("This browser offers no WebGPU adapter. Choose the CPU.");
  const { hasThreads, wasm } = await import("@adjoint/wasm"), threads = hasThreads() ? Math.min(8, navigator.hardwareConcurrency) : 1;
  return { device: await wasm({ threads }), name: `WebAssembly, ${threads === 1 ? "one thread" : `${threads} threads`}` };
}

async function run({ name, text, steps, prompt, device: choice }: Start, signal: AbortSignal): Promise<void> {
  if (text.trim().length < LEAST) throw new Error(`${name} is too short to learn from. Give it at least a page: ${LEAST.toLocaleString("en")} characters.`);
  tell({ type: "doing", what: "Opening the device" });
  const { device, name: deviceName } = await open(choice);
  setDevice(device);
  tell({ type: "doing", what: "Loading the model" });
  const model = await loadModel(modelFiles);
  const tuned = lora(model, { r: 16, loraAlpha: 16, useRslora: true, targetModules: "all-linear", seed: 42 });
  const data = await textData([{ name, text }], model.tokenizer, { maxLength: 128, heldOut: 0.1 });
  const count = (tensors: Iterable<{ readonly shape: readonly number[] }>): number => [...tensors].reduce((n, { shape }) => n + shape.reduce((a, b) => a * b, 1), 0);
  tell({ type: "ready", device: deviceName, tokens: data.tokens, trainable: count(tuned.tensors().values()), parameters: count(Object.values(model.parameters())) });

  const look = async (when: When): Promise<void> => {
    if (data.heldOut !== undefined) {
      tell({ type: "doing", what: `Measuring on text held out, ${when} training` });
      const { bitsPerByte } = await evaluate(tuned, data.heldOut, { signal });
      if (bitsPerByte !== null) tell({ type: "measured", when, bitsPerByte });
    }
    tell({ type: "doing", what: "Writing a sample" });
    await generate(tuned, prompt, { maxNewTokens: 60, temperature: 0.7, topP: 0.9, seed: 7, onToken: (token) => { tell({ type: "token", when, text: token.text }); return !signal.aborted; } });
    tell({ type: "token", when, text: " …" });
  };
  const learningRate = cosine({ peak: 2e-3, warmup: Math.ceil(steps / 12), steps });
  const training = new Training(adapterTrainee(tuned), { data, steps, learningRate, optimizer: adamw({ learningRate, maxGradNorm: 1 }), batchSize: 4 });
  try {
    await look("before");
    for await (const metrics of training.run(signal)) tell({ type: "step", metrics, steps });
    if (!signal.aborted) await look("after");
  } catch (error) {
    if (!signal.aborted) throw error;
  }
  const files = training.step === 0 ? {} : await adapterTrainee(tuned).files();
  tell({ type: "done", stopped: signal.aborted, files: await Promise.all(Object.entries(files).map(async ([file, content]) => ({ name: file, blob: new Blob(await parts(content)) }))) });
  await device.close?.();
}

/** A file's content as parts of a Blob. */
async function parts(content: string | Uint8Array | Iterable<string | Uint8Array> | AsyncIterable<string | Uint8Array>): Promise<BlobPart[]> {
  if (typeof content === "string") return [content];
  if (content instanceof Uint8Array) return [content.slice()];
  const all: BlobPart[] = [];
  for await (const part of content) all.push(typeof part === "string" ? part : part.slice());
  return all;
}
