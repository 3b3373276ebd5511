/**
 * The line protocol of benchmarks/gpu for a rival: says who it is, then answers one JSON line to each request. A task is
 * { first(): numbers that all systems must agree on, run(): queues one run, work, unit }; `idle()` waits for the device.
 */
import { createInterface } from "node:readline";
import { seen } from "./dawn.mjs";

const say = (x) => { process.stdout.write(`${JSON.stringify(x)}\n`); };
const firstLine = (error) => String(error?.message ?? error).split("\n").filter((line) => line.trim() !== "").slice(0, 2).join(" ").slice(0, 300);

/** `open` gives { system, tasks: name -> (request) => task, idle }; what it throws is why this rival does not run here. */
export async function serve(open) {
  process.on("uncaughtException", (error) => { seen.errors.push(firstLine(error)); });
  process.on("unhandledRejection", (error) => { seen.errors.push(firstLine(error)); });
  console.log = console.info = console.warn = console.error = () => undefined; // rivals print; lines are answers here
  let rival;
  try { rival = await open(); } catch (error) {
    say({ error: firstLine(error) });
    process.exit(0);
  }
  say({ system: rival.system, adapter: seen.adapter, software: seen.software });
  const { tasks, idle } = rival;
  const mend = () => { if (seen.errors.length > 0) throw new Error(seen.errors.splice(0)[0]); };
  let kept;
  for await (const line of createInterface({ input: process.stdin })) {
    const q = JSON.parse(line);
    try {
      if (!(q.task in tasks)) { say({ task: q.task, work: 0, unit: "", bytes: 0, lacks: true }); continue; }
      if (kept === undefined) {                     // a process is asked for one task only
        const task = await tasks[q.task](q), first = await task.first();
        await idle();
        mend();
        kept = { task, first };
      }
      const { task, first } = kept, samples = [];
      if (q.check === true) {
        await task.run();
        await idle();
      } else {
        const end = performance.now() + 1000 * q.seconds;
        let runs = 1;
        do {
          const begun = performance.now();
          for (let i = 0, before; i < runs; i++) { const now = task.run(); await before; before = now; }       // at most two queued
          await idle();
          const each = (performance.now() - begun) / runs;
          samples.push(each);
          runs = Math.max(1, Math.min(50, Math.round(100 / each)));
        } while (performance.now() < end || samples.length < 3);
        samples.sort((a, b) => a - b);
      }
      mend();
      say({ task: q.task, ...(q.check === true ? {} : { ms: samples[samples.length >> 1] }), work: task.work, unit: task.unit, bytes: seen.peak, first });
    } catch (error) {
      say({ task: q.task, work: 0, unit: "", bytes: 0, error: firstLine(seen.errors.splice(0)[0] ?? error) });
    }
  }
  process.exit(0);
}
