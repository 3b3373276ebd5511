/** adjoint in a process of its own: reads one request a line, answers one JSON line. */
import { createInterface } from "node:readline";
import { memory, pace, setDevice } from "@adjoint/tensor";
import { nameOf, webgpu } from "@adjoint/webgpu";
import { tasks, type Task } from "./tasks.ts";

interface Request { readonly task: string; readonly seconds: number; readonly smoke?: boolean; readonly scale?: number; readonly profile?: boolean }
const [matmul = "f32", profile = ""] = process.argv.slice(2);
const device = await webgpu({ matmul: matmul === "f16" ? "f16" : "f32", allowSoftware: true, profile: profile === "profile" });
setDevice(device);
const say = (x: unknown): void => { process.stdout.write(`${JSON.stringify(x)}\n`); };
say({ system: `adjoint webgpu${matmul === "f16" ? " f16" : ""}`, adapter: nameOf(device.adapter), software: device.adapter.software });

const state: { kept: { key: string; task: Task; first?: readonly number[] } | null } = { kept: null };
for await (const line of createInterface({ input: process.stdin })) {
  const q = JSON.parse(line) as Request;
  try {
    const key = `${q.task} ${String(q.smoke)} ${q.scale}`;
    if (state.kept?.key !== key) {
      const task = tasks[q.task]({ smoke: q.smoke === true, scale: q.scale ?? 1 });
      state.kept = { key, task, first: await task.first?.() };
      for (let i = 0; i < 3; i++) { state.kept.task.run(); await pace(0); }
    }
    const { task, first } = state.kept, samples: number[] = [], end = performance.now() + 1000 * q.seconds;
    let runs = 1;
    do {
      const begun = performance.now();
      for (let i = 0; i < runs; i++) { task.run(); await pace(2); }
      await pace(0);
      const each = (performance.now() - begun) / runs;
      samples.push(each);
      runs = Math.max(1, Math.min(50, Math.round(100 / each)));          // about a tenth of a second a sample
    } while (performance.now() < end || samples.length < 3);
    samples.sort((a, b) => a - b);
    const { arenaBytes, bufferBytes } = memory(device);
    say({ task: q.task, ms: samples[samples.length >> 1], work: task.work, unit: task.unit, bytes: arenaBytes + bufferBytes, first, ...(profile === "profile" ? { profile: await device.profile() } : {}) });
  } catch (error) {
    say({ task: q.task, error: error instanceof Error ? error.message : String(error) });
  }
}
await device.close();
