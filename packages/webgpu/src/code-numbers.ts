/**
 * Numbers of blocks worked out beforehand: scales that were quantized again, and minima, side by side in one buffer. A dispatch that would bind
 * too many buffers reads them there: 4 bytes a block, never the weight.
 */
import type { BlockNumbers, Decode, PlanSpec } from "@adjoint/tensor";
import { blockNumber, decodeBuffers, offsetOf } from "./codes.ts";
import type { Dispatch, Target } from "./program.ts";
import { Shader, spread } from "./shader.ts";

/** At least as many as there are blocks: what stands behind them in the buffer counts too. */
const lengthOf = ({ values, nested }: BlockNumbers, plan: PlanSpec): number => { const { buffer, offset } = nested?.codes ?? values; return plan.buffers[buffer].length - offset; };
/** Whether a decode would bind fewer buffers so: three of them, codes and table included. */
export const reducible = (d: Decode): boolean => new Set(decodeBuffers(d)).size > 2;

/** The dispatches that write the numbers into buffer `at`, the decode that reads them there, and how many they are. */
export function reduceNumbers(decode: Decode, plan: PlanSpec, target: Target, at: number, label: string): { dispatches: Dispatch[]; decode: Decode; length: number } {
  const { scales, mins } = decode, lists = mins === undefined ? [scales] : [scales, mins], count = Math.min(...lists.map((x) => lengthOf(x, plan)));
  const dispatches = lists.map((x, i): Dispatch => {
    const shader = new Shader(plan, target, { writes: new Set([at]) }), out = shader.bind(at, "f32"), { workgroups, linear } = spread(Math.ceil(count / 256), target);
    const body = [
      `let block = ${linear} * 256u + li;`, `if (block >= ${shader.param(count)}) { return; }`,
      `${out}[${shader.param(i * count)} + block] = ${blockNumber(shader, plan, x, "block", (view) => offsetOf(shader, plan, view))};`,
    ];
    return shader.dispatch(body.join("\n"), { size: [256, 1, 1], workgroups, label: `${label} (scales)`, flops: 0, bytes: count * 9 });
  });
  const flat = (i: number): BlockNumbers => ({ values: { buffer: at, dtype: "f32", offset: i * count, strides: [1] } });
  return { dispatches, decode: { ...decode, scales: flat(0), ...(mins === undefined ? {} : { mins: flat(1) }) }, length: lists.length * count };
}
