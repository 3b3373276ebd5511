/** A base model's own methods with an adapter on, so that whatever wraps a model is a model. */
import type { Context } from "@adjoint/nn";
import { ConfigError } from "@adjoint/tensor";

/** One method of a model that takes a context as its last argument. */
type Takes<Name extends string, I, C, O> = Readonly<Record<Name, (input: I, context?: C) => O>>;
type Field<M, Name extends string> = M extends Readonly<Record<Name, infer V>> ? V : undefined;

/** A wrapped model over a base that has some method. */
interface On<B> {
  readonly base: B;
  readonly dropout: number;
  context<C extends Context>(context?: C): C;
}

/** The context of a loss: with an adapter that drops, it must say whether this is training. */
function decided<C extends Context>(model: On<unknown>, context?: C): C {
  if (model.dropout > 0 && context?.train === undefined) {
    throw new ConfigError(`lora_dropout = ${model.dropout}, and the call does not say whether it trains`, {
      key: "lora_dropout",
      value: model.dropout,
      fix: "pass { train: true, key } while training and { train: false } while evaluating",
    });
  }
  return model.context(context);
}

/** A field of a model that may have it. */
function fieldOf<M, Name extends string>(model: M, name: Name): Field<M, Name>;
function fieldOf(model: object, name: string): unknown {
  const value: unknown = Reflect.get(model, name);
  return value;
}

/** What holds a base beside adapters without being an `AdaptedModel`: sets. */
export const holders: WeakSet<object> = new WeakSet();
/** @throws ConfigError for a model with adapters where a plain one is wanted: its layers would be found under other paths */
export function refuseAdapted(op: string, model: object): void {
  if (model instanceof AdaptedModel || holders.has(model)) throw new ConfigError(`${op}: this is a model with adapters already`, { op, key: "model", fix: "pass its base (.base); several adapters over one base are a set: adapterSet(base)" });
}

/** The base's methods; which adapter is on is what `context` says. */
export abstract class AdaptedModel<M> {
  abstract readonly base: M;
  /** the largest probability with which an adapter that is on drops elements of its input in training */
  abstract readonly dropout: number;
  /** The context of a call with this adapter on. */
  abstract context<C extends Context>(context?: C): C;

  forward<I, C extends Context, O>(this: On<Takes<"forward", I, C, O>>, input: I, context?: C): O {
    return this.base.forward(input, this.context(context));
  }
  /** Scores of the next token. */
  logits<I, C extends Context, O>(this: On<Takes<"logits", I, C, O>>, input: I, context?: C): O {
    return this.base.logits(input, this.context(context));
  }
  /** What the output head reads. */
  hidden<I, C extends Context, O>(this: On<Takes<"hidden", I, C, O>>, input: I, context?: C): O {
    return this.base.hidden(input, this.context(context));
  }
  /** The output head. */
  head<I, C extends Context, O>(this: On<Takes<"head", I, C, O>>, input: I, context?: C): O {
    return this.base.head(input, this.context(context));
  }
  /** Mean loss of a batch. @throws ConfigError when the adapter drops and the context does not say whether this is training */
  loss<B, C extends Context, O>(this: On<Takes<"loss", B, C, O>>, batch: B, context?: C): O {
    return this.base.loss(batch, decided(this, context));
  }
  /** Summed loss of a batch and the number of predicted tokens; errors as `loss`. */
  lossSum<B, C extends Context, O>(this: On<Takes<"lossSum", B, C, O>>, batch: B, context?: C): O {
    return this.base.lossSum(batch, decided(this, context));
  }
  modules<O>(this: On<{ readonly modules: () => O }>): O {
    return this.base.modules();
  }
  /** The base's weights, as they lie in memory. */
  weights<O>(this: On<{ readonly weights: () => O }>): O {
    return this.base.weights();
  }
  /** The base's parameters; the adapter's are `adapter`. */
  parameters<O>(this: On<{ readonly parameters: () => O }>): O {
    return this.base.parameters();
  }
  get config(): Field<M, "config"> {
    return fieldOf(this.base, "config");
  }
  get tokenizer(): Field<M, "tokenizer"> {
    return fieldOf(this.base, "tokenizer");
  }
}
