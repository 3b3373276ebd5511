/** Long short-term memory (Hochreiter and Schmidhuber 1997), with torch's parameters, order of gates and results. */
import { ConfigError, ShapeError, type Tensor, concat, current, internal, show, sigmoid, withGradient } from "@adjoint/tensor";
import { adaptedWeight, type Context } from "./context.ts";
import { Dropout } from "./dropout.ts";
import { wide } from "./wide.ts";

/** Hidden and cell state, each [numLayers · directions, batch, hiddenSize]; layer by layer, forward before reverse. */
export interface LSTMState { readonly h: Tensor; readonly c: Tensor }

export interface LSTMOptions {
  /** x and y are [batch, T, ...] instead of [T, batch, ...]; false by default, as in torch */
  readonly batchFirst?: boolean;
  /** probability of zeroing between layers while training; 0 by default */
  readonly dropout?: number;
  /** only 0 is implemented */
  readonly projSize?: number;
  /** names the dropout draws; must be unique in a model ("lstm" by default) */
  readonly stream?: string;
}

/** What one step computes from its pre-activations [B, 4H] (input, forget, cell, output) and the cell before. */
interface Cell { readonly i: Tensor; readonly f: Tensor; readonly g: Tensor; readonly o: Tensor; readonly before: Tensor; readonly c: Tensor; readonly t: Tensor; readonly h: Tensor }
function cell(a: Tensor, before: Tensor): Cell {
  const H = before.shape[1], gate = (n: number): Tensor => a.slice(1, n * H, (n + 1) * H);
  const i = sigmoid(gate(0)), f = sigmoid(gate(1)), g = gate(2).tanh(), o = sigmoid(gate(3)), c = f.mul(before).add(i.mul(g)), t = c.tanh();
  return { i, f, g, o, before, c, t, h: o.mul(t) };
}

/**
 * All steps of one direction: a holds x W_ihᵀ + b_ih + b_hh for every step, weight is W_hh [4H, H]. h_1 ... h_T and then the last c, joined along the time axis.
 *
 * The gradient is written out (backpropagation through time), since that of T slices would be T padded sums: one product a step, and dW_hh is one product
 * over all steps but the first.
 */
function recurrence(a: Tensor, weight: Tensor, h0: Tensor, c0: Tensor, time: number, reverse: boolean): Tensor {
  const T = a.shape[time], B = h0.shape[0], order = Array.from({ length: T }, (_, n) => (reverse ? T - 1 - n : n));
  const at = (x: Tensor, t: number): Tensor => x.slice(time, t, t + 1).reshape([B, x.shape[2]]), join = (xs: readonly Tensor[]): Tensor => concat(xs.map((x) => x.unsqueeze(time)), time);
  const cells = new Array<Cell>(T);                                           // by position in x
  const all = internal(() => {
    let h = h0, c = c0;
    for (const t of order) {
      cells[t] = cell(at(a, t).add(h.matmul(weight.T)), c);
      ({ h, c } = cells[t]);
    }
    return join([...cells.map((s) => s.h), c]);
  });
  return withGradient(all, [a, weight, h0, c0], (g) => {
    const da = new Array<Tensor>(T);
    let dc = at(g, T), dh: Tensor | null = null;
    for (const t of [...order].reverse()) {
      const s = cells[t], d = dh ? at(g, t).add(dh) : at(g, t), turn = (y: Tensor): Tensor => y.sub(y.mul(y)), bend = (y: Tensor): Tensor => y.mul(y).neg().add(1);
      dc = dc.add(d.mul(s.o).mul(bend(s.t)));
      da[t] = concat([dc.mul(s.g).mul(turn(s.i)), dc.mul(s.before).mul(turn(s.f)), dc.mul(s.i).mul(bend(s.g)), d.mul(s.t).mul(turn(s.o))], 1);
      dc = dc.mul(s.f);
      dh = da[t].matmul(weight);
    }
    // dW_hh = Σ daᵀ h over the h before each step: h0, then what `all` holds
    const dA = join(da), flat = (x: Tensor, from: number): Tensor => x.slice(time, from, from + T - 1).reshape([(T - 1) * B, x.shape[2]]), first = da[order[0]].T.matmul(h0);
    return [dA, T === 1 ? first : first.add(flat(dA, reverse ? 0 : 1).T.matmul(flat(all, reverse ? 1 : 0))), dh, dc];
  });
}

const NAME = /^(weight|bias)_(ih|hh)_l(0|[1-9]\d*)(_reverse)?$/;

/**
 * i, f, o = σ(·), g = tanh(·) of the four quarters (in the order i, f, g, o) of x W_ihᵀ + b_ih + h W_hhᵀ + b_hh;  c' = f c + i g,  h' = o tanh c'.
 *
 * Layer k reads the outputs of layer k - 1, those of both directions side by side. Parameters are fields with torch's names: weight_ih_l{k} [4H, in],
 * weight_hh_l{k} [4H, H], bias_ih_l{k} and bias_hh_l{k} [4H], with `_reverse` for the second direction. How many layers there are, whether they run in
 * both directions and whether they have biases is read off the names. The products of x are one for all steps; each step has one product, of h.
 * Weights pass the context's adapter under their names; half precision is widened. T is part of the recording: another T, another plan.
 */
export class LSTM {
  readonly [name: `weight_${"ih" | "hh"}_l${string}` | `bias_${"ih" | "hh"}_l${string}`]: Tensor;
  readonly inputSize: number;
  readonly hiddenSize: number;
  readonly numLayers: number;
  readonly bidirectional: boolean;
  readonly hasBias: boolean;
  readonly batchFirst: boolean;
  readonly dropout: number;
  readonly stream: string;
  /** @throws ConfigError for names or options that make no sense, ShapeError for shapes that do not fit together */
  constructor(parameters: Readonly<Record<string, Tensor>>, { batchFirst = false, dropout = 0, projSize = 0, stream = "lstm", ...rest }: LSTMOptions = {}) {
    const [unknown] = Object.entries(rest);
    if (unknown !== undefined) throw new ConfigError(`LSTM: ${unknown[0]} is not an option`, { op: "LSTM", key: unknown[0], value: unknown[1], fix: "options: batchFirst, dropout, stream; sizes, layers, directions and biases follow from the parameters" });
    const names = Object.keys(parameters), layers = names.filter((n) => /^weight_ih_l\d+$/.test(n)).length;
    if (projSize !== 0 || names.some((n) => n.startsWith("weight_hr_"))) throw new ConfigError(`LSTM: projSize (proj_size, weight_hr_l{k}) is not implemented`, { op: "LSTM", key: "projSize", value: projSize, fix: "use a Linear layer after the LSTM" });
    for (const n of names) if (!NAME.test(n)) throw new ConfigError(`LSTM: ${n} is not a parameter of an LSTM`, { op: "LSTM", key: n, fix: "weight_ih_l0, weight_hh_l0, bias_ih_l0, bias_hh_l0 and so on, with _reverse for the second direction" });
    if (!(dropout >= 0 && dropout < 1)) throw new ConfigError(`LSTM: dropout must lie in [0, 1), got ${dropout}`, { op: "LSTM", key: "dropout", value: dropout, fix: "use a probability of zeroing" });
    this.bidirectional = names.some((n) => n.endsWith("_reverse"));
    this.hasBias = names.some((n) => n.startsWith("bias_"));
    this.numLayers = Math.max(1, layers);
    const wanted = this.suffixes().flat().flatMap((s) => ["weight_ih", "weight_hh", ...(this.hasBias ? ["bias_ih", "bias_hh"] : [])].map((kind) => `${kind}_l${s}`));
    for (const n of wanted) if (!(n in parameters)) throw new ConfigError(`LSTM: ${n} is missing`, { op: "LSTM", key: n, fix: `a model with ${this.numLayers} layers${this.bidirectional ? " in both directions" : ""} has ${wanted.join(", ")}` });
    for (const n of names) if (!wanted.includes(n)) throw new ConfigError(`LSTM: ${n} belongs to no layer`, { op: "LSTM", key: n, fix: `layers count from l0 without a gap; here they end at l${this.numLayers - 1}` });
    const first = parameters["weight_ih_l0"], recurrent = parameters["weight_hh_l0"];
    const H = recurrent.shape[1], D = this.bidirectional ? 2 : 1;
    for (const n of wanted) {
      const shape = n.startsWith("bias") ? [4 * H] : [4 * H, n.startsWith("weight_hh") ? H : /_l0(_reverse)?$/.test(n) ? first.shape[1] : D * H], { shape: got } = parameters[n];
      if (got.length !== shape.length || got.some((d, i) => d !== shape[i])) throw new ShapeError(`LSTM: ${n} is ${show(got)}, expected ${show(shape)}\n  weight_ih_l0  ${show(first.shape)}\n  weight_hh_l0  ${show(recurrent.shape)}`, { op: "LSTM", key: n, shapes: [got, shape], fix: "weights are [4 · hidden, in], with the gates i, f, g, o one below the other" });
    }
    this.inputSize = first.shape[1];
    this.hiddenSize = H;
    this.batchFirst = batchFirst;
    this.dropout = dropout;
    this.stream = stream;
    Object.assign(this, parameters);
  }
  /** What follows `_l` in the names of each layer, direction by direction. */
  private suffixes(): readonly (readonly string[])[] { return Array.from({ length: this.numLayers }, (_, k) => (this.bidirectional ? [`${k}`, `${k}_reverse`] : [`${k}`])); }

  /**
   * x [T, batch, inputSize] ([batch, T, inputSize] with batchFirst) to y of hiddenSize, twice that in both directions, and the states after the last step.
   * Without a state, h and c begin at 0.
   * @throws ShapeError where x or the state do not fit; ConfigError when training with dropout without a key, and for a state or a context inside the context
   */
  forward(x: Tensor, context: Context = {}, state: LSTMState | null = null): { y: Tensor; state: LSTMState } {
    for (const key of ["state", "context"]) if (key in context) throw new ConfigError(`LSTM: ${key} is no part of a context`, { op: "LSTM", key, fix: "lstm.forward(x, context, state), or lstm.forward(x, {}, state)" });
    const time = this.batchFirst ? 1 : 0, { hiddenSize: H, numLayers } = this, D = this.bidirectional ? 2 : 1;
    if (x.rank !== 3 || x.shape[2] !== this.inputSize) throw new ShapeError(`LSTM: x must be ${this.batchFirst ? "[batch, T" : "[T, batch"}, ${this.inputSize}], got ${show(x.shape)}`, { op: "LSTM", shapes: [x.shape, this.weight_ih_l0.shape], fix: x.rank === 2 ? "add the batch's axis: x.unsqueeze(...)" : `the last axis must have size ${this.inputSize}` });
    const T = x.shape[time], B = x.shape[1 - time];
    for (const [key, s] of [["h", state?.h], ["c", state?.c]] as const) if (s && (s.rank !== 3 || s.shape[0] !== numLayers * D || s.shape[1] !== B || s.shape[2] !== H)) throw new ShapeError(`LSTM: state.${key} must be ${show([numLayers * D, B, H])}, got ${show(s.shape)}`, { op: "LSTM", key: `state.${key}`, shapes: [s.shape], fix: "[layers · directions, batch, hidden], also with batchFirst" });
    let y = wide(current(x));
    const zero = y.like(0, [B, H]), hs: Tensor[] = [], cs: Tensor[] = [];
    this.suffixes().forEach((directions, k) => {
      if (k > 0) y = new Dropout(this.dropout, `${this.stream}/l${k - 1}`).forward(y, context);
      y = concat(directions.map((s, d) => {
        const n = hs.length, start = (t?: Tensor): Tensor => (t ? wide(t.slice(0, n, n + 1).reshape([B, H])) : zero);
        const weight = (name: `weight_${"ih" | "hh"}_l${string}`): Tensor => adaptedWeight(this, name, this[name], context);
        const xw = y.matmul(weight(`weight_ih_l${s}`).T), a = this.hasBias ? xw.add(wide(this[`bias_ih_l${s}`]).add(wide(this[`bias_hh_l${s}`]))) : xw;
        const all = recurrence(a, current(weight(`weight_hh_l${s}`)), start(state?.h), start(state?.c), time, d === 1), out = all.slice(time, 0, T), end = d === 1 ? 0 : T - 1;
        hs.push(out.slice(time, end, end + 1).reshape([1, B, H]));
        cs.push(all.slice(time, T, T + 1).reshape([1, B, H]));
        return out;
      }), 2);
    });
    return { y, state: { h: concat(hs), c: concat(cs) } };
  }
}
