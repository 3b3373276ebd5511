/**
 * Convolutions over one and two spatial axes, as products over gathered windows.
 *
 * Every window of x is one row of a matrix P [windows, kernel · channels] that a single `gather` makes: its ids are a formula of positions, and a window
 * that hangs over the edge reads a row of zeros. Then y = P Wᵀ is one product, whatever kernel, stride, dilation and padding. The other way, a sum over
 * kernel offsets of strided slices times matrices, needs no P but a kernel for each offset forward and a padded copy for each backward, and reads and
 * writes y as often; P costs (kernel / stride) times the memory of x and lives for one product: the backward pass makes it again.
 * The gradient of x is itself such a product, over windows of the gradient of y (`transposed`), so nothing is scattered. Where a group has one channel
 * (depthwise kernels) there is no matrix to multiply by, and the sum over kernel offsets is one pointwise formula of views.
 */
import { ConfigError, type DType, ShapeError, type Shape, type Store, type Tensor, after, bitOr, concat, current, gather, internal, iotaOp, type IotaAttrs, pad, record, scalar, show, sizeOf, where, withGradient } from "@adjoint/tensor";
import { adapted, type Context } from "./context.ts";
import { wide } from "./wide.ts";

type Pair = readonly [number, number];

/** How a kernel moves over its input; numbers count for every spatial axis, lists give one entry each. Names and defaults are torch's. */
export interface ConvolutionOptions {
  /** steps between windows; 1 by default */
  readonly stride?: number | readonly number[];
  /** zeros around x: a number for both ends, [before, after] in a list's entry, "valid" for none, "same" for as many as keep the size (stride 1); 0 by default */
  readonly padding?: number | readonly (number | Pair)[] | "same" | "valid";
  /** steps between the elements of a window; 1 by default */
  readonly dilation?: number | readonly number[];
  /** channels fall into this many groups that do not see each other; 1 by default */
  readonly groups?: number;
  /** only "zeros" is implemented */
  readonly paddingMode?: "zeros";
}
/** `ConvolutionOptions` spelt out, one entry a spatial axis; may be passed wherever those may. */
export interface ConvolutionGeometry {
  readonly stride: readonly number[];
  readonly padding: readonly Pair[];
  readonly dilation: readonly number[];
  readonly groups: number;
}

/**
 * Options spelt out for a kernel of this size ([k] or [kh, kw]).
 * @throws ConfigError for an option that makes no sense or is not implemented
 */
export function convolutionGeometry(kernelSize: Shape, { stride = 1, padding = 0, dilation = 1, groups = 1, paddingMode = "zeros", ...rest }: ConvolutionOptions = {}): ConvolutionGeometry {
  const mode: string = paddingMode;
  const [unknown] = Object.entries(rest);
  if (unknown !== undefined) throw new ConfigError(`convolution: ${unknown[0]} is not an option`, { op: "convolution", key: unknown[0], value: unknown[1], fix: "options: stride, padding, dilation, groups, paddingMode" });
  if (mode !== "zeros") throw new ConfigError(`convolution: paddingMode "${mode}" is not implemented`, { op: "convolution", key: "paddingMode", value: mode, fix: 'use "zeros", or pad x yourself and set padding to 0' });
  const each = (key: string, value: number | readonly number[], least: number): readonly number[] => {
    const list = typeof value === "number" ? kernelSize.map(() => value) : value;
    if (list.length !== kernelSize.length || list.some((n) => !Number.isInteger(n) || n < least)) throw new ConfigError(`convolution: ${key} is ${JSON.stringify(value)}`, { op: "convolution", key, value, fix: `a whole number from ${least} on, or ${kernelSize.length} of them` });
    return list;
  };
  const steps = each("stride", stride, 1), gaps = each("dilation", dilation, 1);
  if (!Number.isInteger(groups) || groups < 1) throw new ConfigError(`convolution: groups is ${groups}`, { op: "convolution", key: "groups", value: groups, fix: "a whole number from 1 on that divides the channels" });
  const base = { stride: steps, dilation: gaps, groups };
  if (typeof padding === "string") {
    if (padding !== "same" && padding !== "valid") throw new ConfigError(`convolution: padding is "${String(padding)}"`, { op: "convolution", key: "padding", value: padding, fix: '"same", "valid" or numbers' });
    if (padding === "same" && steps.some((s) => s !== 1)) throw new ConfigError('convolution: padding "same" needs stride 1', { op: "convolution", key: "padding", value: padding, fix: "give the padding as numbers" });
    // where the kernel is even, the extra zero comes after, as in torch
    return { ...base, padding: kernelSize.map((k, i): Pair => { const all = padding === "same" ? gaps[i] * (k - 1) : 0; return [Math.floor(all / 2), Math.ceil(all / 2)]; }) };
  }
  const list = typeof padding === "number" ? kernelSize.map(() => padding) : padding;
  const ends = list.map((n): Pair => (typeof n === "number" ? [n, n] : n));
  if (ends.length !== kernelSize.length || ends.some((e) => e.length !== 2)) throw new ConfigError(`convolution: padding is ${JSON.stringify(padding)}`, { op: "convolution", key: "padding", value: padding, fix: `a whole number, or ${kernelSize.length} entries, each a number or [before, after]` });
  each("padding", ends.map((e) => e[0]), 0);
  each("padding", ends.map((e) => e[1]), 0);
  return { ...base, padding: ends };
}

/** Windows over [N, C, H, W]: element k of window o lies at o · stride + k · dilation - offset, where x is 0 outside. Dilations may be negative. */
interface Windows { readonly out: Shape; readonly kernel: Shape; readonly stride: Shape; readonly dilation: Shape; readonly offset: Shape; readonly groups: number }

/** Numbers that formulas of positions share, so that equal formulas are one node: an adapter's convolution reads the windows of its layer. */
const numbers = new Map<string, Tensor>();
function number(n: number, dtype: DType = "i32"): Tensor {
  const key = `${n} ${dtype}`, known = numbers.get(key) ?? scalar(n, dtype);
  numbers.set(key, known);
  return known;
}

/** P [groups, N, windows, kernel · channels of a group]. */
function windows(x: Tensor, { out, kernel, stride, dilation, offset, groups: G }: Windows): Tensor {
  const [N, C, ...size] = x.shape, [H, W] = size, D = C / G, shape = [G, N, ...out, ...kernel], outside: Tensor[] = [];
  const affine = (strides: readonly number[], from: number): Tensor => record(iotaOp, [], { strides } satisfies IotaAttrs, shape, "i32").sub(number(from));
  size.forEach((d, i) => {
    const reach = dilation[i] * (kernel[i] - 1), at = affine(shape.map((_, a) => (a === 2 + i ? stride[i] : a === 4 + i ? dilation[i] : 0)), offset[i]);
    if (Math.min(0, reach) < offset[i]) outside.push(at.lt(number(0)));
    if ((out[i] - 1) * stride[i] + Math.max(0, reach) - offset[i] >= d) outside.push(at.ge(number(d)));
  });
  const rows = x.permute([0, 2, 3, 1]).reshape([N * H * W * G, D]), inner = affine([1, H * W * G, stride[0] * W * G, stride[1] * G, dilation[0] * W * G, dilation[1] * G], (offset[0] * W + offset[1]) * G);
  const table = outside.length ? concat([rows, number(0, x.dtype).expand([1, D])]) : rows, ids = outside.length ? where(outside.reduce((a, b) => bitOr(a, b)), number(N * H * W * G), inner) : inner;
  return gather(table, ids.reshape([-1])).reshape([G, N, out[0] * out[1], kernel[0] * kernel[1] * D]);
}

/** What each element of the kernel sees of x, [N, C, ...out] each: views of x with zeros around it. */
function taps(x: Tensor, { out, kernel, stride, dilation, offset }: Windows): Tensor[] {
  const [N, C, ...size] = x.shape, starts = kernel.map((k, i) => Array.from({ length: k }, (_, j) => j * dilation[i] - offset[i]));
  const from = starts.map((at) => Math.min(0, ...at)), padded = size.reduce((y, d, i) => pad(y, 2 + i, -from[i], Math.max(0, Math.max(...starts[i]) + out[i] * stride[i] - d)), x);
  const along = (y: Tensor, i: number, start: number): Tensor => {
    const part = y.slice(2 + i, start - from[i], start - from[i] + out[i] * stride[i]);
    return stride[i] === 1 ? part : part.reshape([...part.shape.slice(0, 2 + i), out[i], stride[i], ...part.shape.slice(3 + i)]).slice(3 + i, 0, 1).reshape(part.shape.map((d, a) => (a === 2 + i ? out[i] : d)));
  };
  return starts[0].flatMap((top) => starts[1].map((left) => along(along(padded, 0, top), 1, left).reshape([N, C, ...out])));
}
/** Kernels of one channel and at most this many elements are sums of views. */
const MAX_TAPS = 64;

/** y[n, o] = Σ over elements k and channels c of x at window · W[o, c, k]; weight [O, C / groups, KH, KW]; differentiable as often as wanted. */
function correlate(x: Tensor, weight: Tensor, over: Windows): Tensor {
  const { out, groups: G } = over, [N] = x.shape, [O, D, ...kernel] = weight.shape, K = sizeOf(kernel), L = sizeOf(out), M = O / G, byGroup = [N, G, M, ...out];
  const views = D === 1 && K <= MAX_TAPS ? internal(() => taps(x, over).map((t) => t.unsqueeze(2))) : null;
  const product = internal(() => {
    if (views) return views.map((t, k) => t.mul(wide(weight).reshape([G, M, K, 1]).slice(2, k, k + 1))).reduce((a, b) => a.add(b)).reshape([N, O, ...out]);
    const w = weight.reshape([G, M, D, K]).permute([0, 1, 3, 2]).reshape([G, 1, M, K * D]), y = w.matmul(windows(x, over).T);
    return (G === 1 ? y : y.permute([1, 0, 2, 3])).reshape([N, O, ...out]);
  });
  return withGradient(product, [x, weight], (g) => {
    const dx = transposed(g, weight, over, x.shape.slice(2));
    if (views && M === 1) return [dx, concat(views.map((t) => t.mul(g.reshape(byGroup)).sum([0, 3, 4]).reshape([O, 1])), 1).reshape(weight.shape)];
    const p = windows(after(x, g, 0), over).reshape([G, N * L, K * D]), byChannel = g.reshape([N, G, M, L]).permute([1, 2, 0, 3]).reshape([G, M, N * L]);
    return [dx, byChannel.matmul(p).reshape([O, K, D]).permute([0, 2, 1]).reshape(weight.shape)];
  });
}

/**
 * dx [N, C, H, W] of `correlate` from the gradient g [N, O, OH, OW] of its result.
 *
 * With stride 1, position h is touched by the outputs h + offset - k · dilation: windows of g, walked backwards. With stride s, h + offset = s a + b is
 * touched by the outputs a - t with k = b + s t: windows of g at a, and for each phase b a kernel of its own; the phases are channels of one product
 * and become positions by a permutation, so that no zero is multiplied that need not be.
 */
function transposed(g: Tensor, weight: Tensor, { kernel, stride, dilation, offset, groups: G }: Windows, size: Shape): Tensor {
  let w = weight;
  const [N] = g.shape, [O, D] = weight.shape, C = D * G;
  const axes = size.map((d, i) => {
    const s = stride[i], axis = 2 + i;
    if (s === 1) return { out: d, taps: kernel[i], phases: 1, s, cut: 0, dilation: -dilation[i], offset: -offset[i] };
    if (dilation[i] > 1) w = pad(w.unsqueeze(axis + 1), axis + 1, 0, dilation[i] - 1).reshape(w.shape.map((n, j) => (j === axis ? n * dilation[i] : n))).slice(axis, 0, dilation[i] * (kernel[i] - 1) + 1);
    const k = w.shape[axis], phases = Math.min(s, k), taps = Math.ceil(k / s);
    w = pad(w, axis, 0, taps * phases - k);
    return { out: Math.ceil((d + offset[i]) / s), taps, phases, s, cut: offset[i], dilation: -1, offset: 0 };
  });
  const [h, v] = axes, phases = h.phases * v.phases, all = (f: (axis: (typeof axes)[number]) => number): number[] => axes.map(f);
  const turned = w.reshape([O * D, h.taps, h.phases, v.taps, v.phases]).permute([0, 2, 4, 1, 3]).reshape([G, O / G, D, phases, h.taps * v.taps]).permute([0, 2, 3, 1, 4]).reshape([C * phases, O / G, h.taps, v.taps]);
  const y = correlate(g, turned, { out: all((a) => a.out), kernel: all((a) => a.taps), stride: [1, 1], dilation: all((a) => a.dilation), offset: all((a) => a.offset), groups: G });
  if (h.s * v.s === 1) return y;
  const apart = y.reshape([N * C, h.phases, v.phases, h.out, v.out]).permute([0, 3, 1, 4, 2]), filled = pad(pad(apart, 2, 0, h.s - h.phases), 4, 0, v.s - v.phases);
  return filled.reshape([N, C, h.out * h.s, v.out * v.s]).slice(2, h.cut, h.cut + size[0]).slice(3, v.cut, v.cut + size[1]);
}

/**
 * y[n, o, p] = Σ over k and the channels c of o's group of weight[o, c, k] · x[n, c, p · stride + k · dilation - padding] + bias[o], with x = 0 outside
 * (a cross-correlation, as everybody means it).
 *
 * Shapes: x [N, C, L] with weight [O, C / groups, k], or x [N, C, H, W] with weight [O, C / groups, kh, kw]; y [N, O, ...out] with
 * out = ⌊(in + padding before and after - dilation (k - 1) - 1) / stride⌋ + 1. Half precision is computed in f32. A kernel of one element with stride 1
 * is one product that copies nothing. The weight may be any tensor, so an adapter runs its own through the geometry of a layer.
 * @throws ShapeError where shapes do not fit; ConfigError as `convolutionGeometry`
 * @example convolve(x, a, null, layer.geometry)
 */
export function convolve(x: Tensor, weight: Tensor, bias: Tensor | null = null, options: ConvolutionOptions = {}): Tensor {
  const spatial = weight.rank - 2, op = `convolution over ${spatial} axes`;
  if (spatial !== 1 && spatial !== 2) throw new ShapeError(`convolution: the weight must be [out, in / groups, k] or [out, in / groups, kh, kw], got ${show(weight.shape)}`, { op: "convolve", key: weight.name, shapes: [weight.shape] });
  const [O, D, ...kernel] = weight.shape, { stride, padding, dilation, groups: G } = convolutionGeometry(kernel, options);
  if (x.rank !== weight.rank) throw new ShapeError(`${op}: x must be ${spatial === 1 ? "[N, C, L]" : "[N, C, H, W]"}, got ${show(x.shape)}`, { op, shapes: [x.shape, weight.shape], fix: x.rank === weight.rank - 1 ? "add an axis: x.unsqueeze(0)" : `reshape x to ${weight.rank} axes` });
  if (O % G !== 0) throw new ShapeError(`${op}: ${O} output channels do not fall into ${G} groups`, { op, key: weight.name, shapes: [weight.shape], fix: "groups must divide the channels" });
  const [N, C, ...size] = x.shape;
  if (C !== D * G) throw new ShapeError(`${op}: x has ${C} channels, the weight wants ${D * G}\n  x  ${show(x.shape)}   ${x.name}\n  weight  ${show(weight.shape)}   ${weight.name}   (groups ${G})`, { op, shapes: [x.shape, weight.shape], fix: C % G === 0 && C / D === Math.floor(C / D) && C > D ? `did you mean groups: ${C / D}?` : "x is [N, channels, ...positions]" });
  if (bias && (bias.rank !== 1 || bias.shape[0] !== O)) throw new ShapeError(`${op}: bias ${show(bias.shape)} does not fit weight ${show(weight.shape)}`, { op, key: bias.name, shapes: [weight.shape, bias.shape], fix: `a bias of ${O} numbers` });
  const out = size.map((d, i) => Math.floor((d + padding[i][0] + padding[i][1] - dilation[i] * (kernel[i] - 1) - 1) / stride[i]) + 1);
  if (out.some((d) => d < 1)) throw new ShapeError(`${op}: a kernel ${show(kernel)} with dilation ${show(dilation)} is larger than the padded input\n  x  ${show(x.shape)}\n  padding  ${JSON.stringify(padding)}`, { op, shapes: [x.shape, weight.shape], fix: "pad more, or use a smaller kernel" });
  const values = wide(current(x)), w = current(weight), offset = padding.map((p) => p[0]), still = out.every((d, i) => kernel[i] === 1 && stride[i] === 1 && d === size[i]);
  let y: Tensor;
  if (still) y = w.reshape([1, G, O / G, D]).matmul(values.reshape([N, G, D, sizeOf(size)])).reshape([N, O, ...size]);
  else {
    const two = (list: Shape, missing: number): Shape => (spatial === 1 ? [missing, ...list] : list);
    const over = { out: two(out, 1), kernel: two(kernel, 1), stride: two(stride, 1), dilation: two(dilation, 1), offset: two(offset, 0), groups: G };
    y = correlate(values.reshape([N, C, ...two(size, 1)]), w.reshape([O, D, ...over.kernel]), over).reshape([N, O, ...out]);
  }
  return bias ? y.add(wide(bias).reshape([1, O, ...kernel.map(() => 1)])) : y;
}

/** What both layers are. */
class Convolution {
  readonly weight: Tensor;
  readonly bias: Store | null;
  /** stride, padding, dilation and groups, spelt out */
  readonly geometry: ConvolutionGeometry;
  constructor(name: string, axes: number, weight: Tensor, bias: Store | null, options: ConvolutionOptions) {
    const wanted = axes === 1 ? "[out, in / groups, k]" : "[out, in / groups, kh, kw]";
    if (weight.rank !== 2 + axes) throw new ShapeError(`${name}: the weight must be ${wanted}, got ${show(weight.shape)}`, { op: name, key: weight.name, shapes: [weight.shape] });
    if (bias && (bias.rank !== 1 || bias.shape[0] !== weight.shape[0])) throw new ShapeError(`${name}: bias ${show(bias.shape)} does not fit weight ${show(weight.shape)}`, { op: name, key: bias.name, shapes: [weight.shape, bias.shape], fix: `a bias of ${weight.shape[0]} numbers` });
    this.geometry = convolutionGeometry(weight.shape.slice(2), options);
    if (weight.shape[0] % this.geometry.groups !== 0) throw new ShapeError(`${name}: ${weight.shape[0]} output channels do not fall into ${this.geometry.groups} groups`, { op: name, key: weight.name, shapes: [weight.shape], fix: "groups must divide the channels" });
    this.weight = weight;
    this.bias = bias;
  }
  get inChannels(): number { return this.weight.shape[1] * this.geometry.groups; }
  get outChannels(): number { return this.weight.shape[0]; }
  get kernelSize(): Shape { return this.weight.shape.slice(2); }
  get stride(): readonly number[] { return this.geometry.stride; }
  /** zeros before and after, for each spatial axis */
  get padding(): readonly Pair[] { return this.geometry.padding; }
  get dilation(): readonly number[] { return this.geometry.dilation; }
  get groups(): number { return this.geometry.groups; }
  /** x [N, inChannels, ...positions] to [N, outChannels, ...positions]. @throws ShapeError where x does not fit */
  forward(x: Tensor, context: Context = {}): Tensor {
    return adapted(this, x, convolve(x, this.weight, this.bias, this.geometry), context);
  }
}

/** A convolution over one axis, x [N, C, L] (torch's `Conv1d`; GPT-2's `Conv1D` is another thing); weight [out, in / groups, k] and bias [out]. See `convolve`. */
export class Conv1d extends Convolution {
  /** @throws ShapeError, ConfigError for what does not fit */
  constructor(weight: Tensor, bias: Store | null = null, options: ConvolutionOptions = {}) { super("Conv1d", 1, weight, bias, options); }
}
/** A convolution over two axes, x [N, C, H, W] (torch's `Conv2d`); weight [out, in / groups, kh, kw] and bias [out]. See `convolve`. */
export class Conv2d extends Convolution {
  /** @throws ShapeError, ConfigError for what does not fit */
  constructor(weight: Tensor, bias: Store | null = null, options: ConvolutionOptions = {}) { super("Conv2d", 2, weight, bias, options); }
}
