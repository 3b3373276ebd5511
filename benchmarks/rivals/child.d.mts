/** Types of child.mjs: how a process offers tasks to the speed harness. */
export interface Task { readonly warm: () => Promise<Info> | Info; readonly run: () => Promise<void> | void; readonly end?: () => Promise<void> | void }
/** What the first runs say: losses of the training step, corners of a product, flops of the peak loop. */
export type Info = Readonly<Record<string, number | string | readonly number[]>>;
export function serve(system: { readonly name: string; readonly version: string; readonly note: string; readonly close?: () => Promise<void> }, tasks: Readonly<Record<string, (dump: string) => Promise<Task> | Task>>): void;
