/**
 * The other end of the speed harness: a process that holds one system and times it when told to.
 *
 * Messages from the harness, and the answers: { do: "prepare", task } -> { info }, { do: "go", task, seconds, least } ->
 * { median, count } in milliseconds a run, { do: "end", task }, { do: "memory" } -> { peak } in bytes, { do: "leave" }.
 * A task is { warm(): info of the first runs, run(): one run, end?() }.
 */

/** Answers the harness with these tasks: name -> (dump) => task, built when asked for. */
export function serve(system, tasks) {
  const ready = new Map();
  let queue = Promise.resolve();
  const answer = async (message) => {
    switch (message.do) {
      case "prepare": {
        const task = await tasks[message.task](message.dump);
        ready.set(message.task, task);
        const info = await task.warm();
        return { info, inner: (task.inner = await calibrate(task)) };
      }
      case "go": return time(ready.get(message.task), message.seconds, message.least);
      case "end": await ready.get(message.task)?.end?.(); ready.delete(message.task); return {};
      case "memory": return { peak: process.resourceUsage().maxRSS * 1024 };
      case "leave": await system.close?.(); setTimeout(() => process.exit(0), 10); return {};
      default: throw new Error(`unknown message ${JSON.stringify(message)}`);
    }
  };
  process.on("message", (message) => {
    queue = queue.then(() => answer(message)).then((reply) => process.send({ id: message.id, ...reply }), (error) => process.send({ id: message.id, error: String(error?.stack ?? error) }));
  });
  process.send({ id: 0, system: { name: system.name, version: system.version, note: system.note } });
}

/** Runs a sample: enough that a clock reads it well (5 ms). */
async function calibrate(task) {
  const begun = performance.now();
  await task.run();
  return Math.max(1, Math.ceil(5 / Math.max(0.005, performance.now() - begun)));
}

async function time(task, seconds, least) {
  const samples = [], end = performance.now() + 1000 * seconds;
  while (samples.length < least || performance.now() < end) {
    const begun = performance.now();
    for (let i = 0; i < task.inner; i++) await task.run();
    samples.push((performance.now() - begun) / task.inner);
  }
  samples.sort((a, b) => a - b);
  return { median: samples[samples.length >> 1], count: samples.length * task.inner };
}
