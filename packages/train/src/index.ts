/** @adjoint/train: data, loops, checkpoints, metrics, evaluation. */
export * from "./data/index.ts";
export * from "./metrics.ts";
export * from "./recipe.ts";
export { type Course, type Estimate, estimateSeconds, Estimator } from "./estimate.ts";
export { evaluate, type EvaluateOptions, type Evaluation, type Scorer } from "./evaluate.ts";
export { adapterTrainee, fullTrainee, type Trainee } from "./trainee.ts";
export { type ReloraOptions, relora, reloraTrainee, restOf } from "./relora.ts";
export type { Between, Gradients, Routine, RoutineState } from "./routine.ts";
export { memoryBytes, Training, type TrainingOptions } from "./loop.ts";
export { type AdapterSource, loraOptions, tunedFor } from "./adapters.ts";
export { adaloraRoutine } from "./adalora.ts";
export { baseOptions, optimizerFor, reloraOptions, scheduleOf, stepsOf, traineeOf, trainingOptions, warmupOf } from "./setup.ts";
export { checkpointOrigin, checkpoints, type CheckpointInfo, type CheckpointOptions, configHash, dataHash, latestCheckpoint, loadCheckpoint, readCheckpoint, saveCheckpoint } from "./checkpoint.ts";
export { type Comparison, type Measured, run, type RunEvent, type RunOptions, type RunResult } from "./run.ts";
export { RUN_FILE } from "./run-folder.ts";
export { REPORT_FILE, reportHtml, type ReportOptions, writeReport } from "./report.ts";
export { type MemoryPrediction, type MemoryRequest, type MemoryTerm, type Method, logitsBytes, modulesOf, type PlannedDevice, predictMemory, quantizedBytes, type RankCost, rankRatio, staticTerms, type StaticTerms, stepBytes, type StepBytes, type StepShape, type TrainingRequest } from "./memory/index.ts";
