/** @adjoint/nn: layers as plain classes with fields and forward. */
export { adapted, adaptedWeight, type Context, type Flattened, type ModuleAdapter, within } from "./context.ts";
export { Conv1D, Linear } from "./linear.ts";
export { Conv1d, Conv2d, type ConvolutionGeometry, type ConvolutionOptions, convolutionGeometry, convolve } from "./convolution.ts";
export { LSTM, type LSTMOptions, type LSTMState } from "./lstm.ts";
export { Embedding } from "./embedding.ts";
export { LayerNorm, RMSNorm } from "./norm.ts";
export { Dropout } from "./dropout.ts";
export { type RopeScaling, type RopeTables, rope, ropeFrequencies, ropeTables } from "./rope.ts";
export { type AttentionOptions, attention } from "./attention.ts";
export { CausalMask, type Visibility, allOf, causalMask, fusedAttention, paddingMask, segmentMask } from "./mask.ts";
export { IGNORED, type LossOptions, nextTokenLoss, nextTokenLossSum, shiftLabels } from "./loss.ts";
export { type ChunkOptions, linearCrossEntropy, rowsPerChunk } from "./linear-cross-entropy.ts";
export { type Initializer, constant, kaimingUniform, normal, uniform, xavierUniform } from "./init.ts";
export { wide } from "./wide.ts";
