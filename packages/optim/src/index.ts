/** @adjoint/optim: optimizers as transforms of trees, schedules, clipping, parameter groups, accumulation. */
export { chain, mapLeaves, stateless, zerosLike, type Context, type Leaves, type State, type Transform } from "./transform.ts";
export { addDecayedWeights, clipByGlobalNorm, decayWeights, globalNorm, negate, scaleByAdam, scaleByLearningRate, squaredNorm, trace, type AdamScaling, type ByPath, type Rates, type TraceOptions } from "./transforms.ts";
export { isNormOrBias, matches, rulesOf, type Group, type Match, type RateOptions, type RoleMatch, type Rules } from "./groups.ts";
export { BoundOptimizer, optimizerOf, type GradientsOf, type Optimizer, type StepReport } from "./optimizer.ts";
export { type TorchState } from "./state.ts";
export { adam, adamw, optimizer, optimizerNames, sgd, type AdamOptions, type SgdOptions } from "./named.ts";
export { accumulate, Accumulator, type Accumulated } from "./accumulate.ts";
export { roleOf, roles, type Role } from "./roles.ts";
export { byRole, loraPlus, type LoraPlus, type LoraPlusOptions, type RoleRates } from "./role-groups.ts";
export { constant, constantWithWarmup, inverseSqrt, joinSchedules, linear, polynomial, withWarmup, type InverseSqrtOptions, type PolynomialOptions, type Schedule, type ScheduleOptions } from "./schedules.ts";
export { cosine, cosineAnnealing, cosineAnnealingWarmRestarts, cosineWarmupWithMinLr, cosineWithMinLr, cosineWithRestarts, cyclicalCosine, jaggedCosine } from "./schedules-cosine.ts";
export type { AnnealingOptions, CosineFloorOptions, CosineOptions, CosineWarmupFloorOptions, CyclicalOptions, JaggedOptions, WarmRestartsOptions } from "./schedules-cosine.ts";
export { oneCycle, oneCycleMomentum, warmupStableDecay, type OneCycleMomentumOptions, type OneCycleOptions, type PhaseShape, type WarmupStableDecayOptions } from "./schedules-phases.ts";
export { isPlateau, plateauRule, reduceOnPlateau, type Plateau, type PlateauOptions, type PlateauState } from "./schedules-plateau.ts";
export { aboutSchedule, plotSchedule, schedule, scheduleNames, scheduleOptions, type AnyScheduleOptions, type ScheduleAbout, type ScheduleKey } from "./schedules-named.ts";
