/** @adjoint/optim: optimizers as transforms of trees, schedules, clipping, parameter groups, accumulation. */
export { constant, constantWithWarmup, cosine, linear, schedule, scheduleNames, type CosineOptions, type Schedule, type ScheduleOptions } from "./schedules.ts";
export { chain, mapLeaves, stateless, zerosLike, type Context, type Leaves, type State, type Transform } from "./transform.ts";
export { addDecayedWeights, clipByGlobalNorm, decayWeights, globalNorm, negate, scaleByAdam, scaleByLearningRate, squaredNorm, trace, type AdamScaling, type ByPath, type Rates, type TraceOptions } from "./transforms.ts";
export { isNormOrBias, matches, rulesOf, type Group, type Match, type RateOptions, type Rules } from "./groups.ts";
export { BoundOptimizer, optimizerOf, type GradientsOf, type Optimizer, type StepReport } from "./optimizer.ts";
export { type TorchState } from "./state.ts";
export { adam, adamw, optimizer, optimizerNames, sgd, type AdamOptions, type SgdOptions } from "./named.ts";
export { accumulate, Accumulator, type Accumulated } from "./accumulate.ts";
