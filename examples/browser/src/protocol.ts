/** What the page and the worker that trains say to each other. */
import type { StepMetrics } from "@adjoint/train";

export type DeviceChoice = "auto" | "webgpu" | "cpu";

export interface Start {
  readonly type: "start";
  readonly name: string;
  readonly text: string;
  readonly steps: number;
  readonly prompt: string;
  readonly device: DeviceChoice;
}
export type Request = Start | { readonly type: "stop" };

export type When = "before" | "after";
export type Report =
  | { readonly type: "doing"; readonly what: string }
  | { readonly type: "ready"; readonly device: string; readonly tokens: number; readonly trainable: number; readonly parameters: number }
  | { readonly type: "measured"; readonly when: When; readonly bitsPerByte: number }
  | { readonly type: "token"; readonly when: When; readonly text: string }
  | { readonly type: "step"; readonly metrics: StepMetrics; readonly steps: number }
  | { readonly type: "done"; readonly stopped: boolean; readonly files: readonly { readonly name: string; readonly blob: Blob }[] }
  | { readonly type: "error"; readonly message: string };
