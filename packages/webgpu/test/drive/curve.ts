/** A short LoRA fine-tuning of a small random Llama on fixed ids: its losses must agree between backends. */
import { gradients } from "@adjoint/autograd";
import { lora } from "@adjoint/lora";
import { initModel } from "@adjoint/models";
import { adamw } from "@adjoint/optim";
import { type Backend, compile, setDevice, type Tensor, tensor } from "@adjoint/tensor";

const config = { model_type: "llama", vocab_size: 128, hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2, max_position_embeddings: 64 };

/** Losses of `steps` steps on two rows of `length` tokens. */
export async function curve(backend: Backend, steps: number, length = 32): Promise<number[]> {
  setDevice(backend);
  const model = initModel(config, 7), tuned = lora(model, { r: 4, loraAlpha: 8, targetModules: "all-linear", seed: 3 });
  const optimizer = adamw({ learningRate: 1e-2 }).for(tuned.adapter);
  const ids = tensor(Int32Array.from({ length: 2 * length }, (_, i) => (i * i * 7 + 3 * i) % 128), { shape: [2, length] });
  const step = compile((rows: Tensor) => {
    const loss = tuned.loss({ inputIds: rows, labels: rows });
    optimizer.step(gradients(loss, tuned.adapter));
    return loss;
  });
  const losses: number[] = [];
  for (let i = 0; i < steps; i++) losses.push(await step(ids).item());
  return losses;
}

/** The largest relative difference of two curves. */
export const apart = (a: readonly number[], b: readonly number[]): number => Math.max(...a.map((x, i) => Math.abs(x - b[i]) / Math.abs(x)));
