/** Dropout whose mask is a function of (seed, stream, step, element), so that recomputation and resume see the same one. */
import { ConfigError, type Tensor, dropout } from "@adjoint/tensor";
import { type Context, within } from "./context.ts";

/** While training x/(1-p) with probability 1-p, else 0; the identity otherwise. `stream` names this layer's draws and must be unique in a model. */
export class Dropout {
  readonly p: number;
  readonly stream: string;
  /** @throws ConfigError unless 0 ≤ p < 1 */
  constructor(p: number, stream: string) {
    if (!(p >= 0 && p < 1)) throw new ConfigError(`Dropout: p must lie in [0, 1), got ${p}`, { op: "Dropout", key: "p", value: p, fix: "use a probability of zeroing" });
    this.p = p;
    this.stream = stream;
  }
  /** @throws ConfigError when training without a key */
  forward(x: Tensor, context: Context = {}): Tensor {
    if (!context.train || this.p === 0) return x;
    const { key } = within(context, this.stream);
    if (!key) throw new ConfigError(`Dropout ${this.stream}: training needs a key for its random mask`, { op: "Dropout", key: "key", fix: 'pass { train: true, key: { seed, stream: "dropout", step } }' });
    return dropout(x, this.p, key);
  }
}
