/** The engine on a device that cannot be read at once: answers stay there as leaves, and arrive when they are asked for. */
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { type Backend, DeviceError, type Tensor, assign, compile, createReference, explain, explainNaN, findNaN, gather, getDevice, keep, memory, pace, referenceBackend, scope, setDevice, store, tensor } from "../src/index.ts";

setFlagsFromString("--expose-gc");
const collect = runInNewContext("gc") as () => void;
const turn = (): Promise<void> => new Promise((resolve) => { setTimeout(resolve, 2); });

const before = getDevice();
let device: Backend;
beforeEach(() => { device = setDevice(createReference({ name: "far", sync: false })); });
afterEach(() => { setDevice(before); });

const N = 400;                                                        // 1600 bytes: never fetched unasked
const big = (start = 0): Tensor => tensor(Float32Array.from({ length: N }, (_, i) => start + i));
/** Computes t and leaves it on the device. */
const left = (t: Tensor): Tensor => scope(() => t);

describe("answers that stay on the device", () => {
  test("a large answer is a leaf: fed into the next step without being read, for many steps and one plan", async () => {
    let x = left(big().mul(1));
    const step = compile((t: Tensor) => t.add(1));
    for (let i = 0; i < 10; i++) x = i % 2 ? step(x) : left(x.add(1));
    expect(x.resident?.device).toBe(device);
    expect(x.value).toBeNull();
    const { plansMade } = memory();
    for (let i = 0; i < 10; i++) x = i % 2 ? step(x) : left(x.add(1));
    expect(memory().plansMade).toBe(plansMade);
    expect((await x.data())[5]).toBe(25);
    expect(x.resident).toBeNull();
  });

  test("reading frees the buffer, for one tensor and for several of one node", async () => {
    const a = big(), levels = device.counters.buffers;
    const [x, y] = scope(() => [a.add(a), a.add(a)]);
    expect(device.counters.buffers).toBe(levels + 1);                 // equal recipes are one answer
    const [p, q] = await Promise.all([x.data(), y.data()]);
    expect(p).toEqual(q);
    expect(p[7]).toBe(14);
    expect(device.counters.buffers).toBe(levels);
  });

  test("a small answer comes by itself, and again as a host number", async () => {
    const loss = left(big().sum());
    expect(loss.value).toBeNull();
    await turn();
    expect(loss.value?.data[0]).toBe((N * (N - 1)) / 2);
    expect(device.counters.buffers).toBe(0);
    expect(await loss.add(1).item()).toBe((N * (N - 1)) / 2 + 1);
  });

  test("what is collected unread gives its buffer back", async () => {
    const levels = device.counters.buffers;
    (() => { for (let i = 0; i < 5; i++) left(big(i).mul(3)); })();
    expect(device.counters.buffers).toBe(levels + 5);
    for (let i = 0; i < 50 && device.counters.buffers > levels; i++) { await turn(); collect(); }
    expect(device.counters.buffers).toBe(levels);
  });

  test("it is a leaf in every place: views, stores, ids, outputs, arguments returned, kept values", async () => {
    const x = left(big().mul(2)), s = store(tensor(new Float32Array(N)), "s");
    expect((await x.reshape([20, 20]).T.data())[1]).toBe(40);
    assign([s], [x]);
    expect((await s.data())[3]).toBe(6);
    const same = compile((t: Tensor) => ({ t, twice: t.mul(2), x }))(x);
    expect((await same.t.data())[3]).toBe(6);
    expect((await same.twice.data())[3]).toBe(12);
    expect(same.x).toBe(x);
    const y = left(big().mul(3)), copy = keep(y.mul(1));
    assign([s], [y.add(s)]);
    await s.data();
    expect((await copy.data())[1]).toBe(3);
    const ids = left(big().cast("i32")), table = tensor([[1], [2]]);
    expect((await gather(table, ids).data()).slice(0, 4)).toEqual(Float32Array.of(1, 2, 2, 2));   // clamped by the device
    expect(explain(y.add(1)).graph).toMatch(/1 nodes|2 nodes|3 nodes/);
    expect(String((y as unknown as Record<symbol, () => string>)[Symbol.for("nodejs.util.inspect.custom")]())).toMatch(y.resident ? "on far" : "3.");
  });

  test("many steps unread: the values are those of a device that is read at once", async () => {
    const results: number[][] = [];
    for (const backend of [createReference(), createReference({ sync: false })]) for (const every of [1, 3, 100]) {
      setDevice(backend);
      const w = store(big(), "w"), step = compile((x: Tensor) => { const y = w.mul(0.5).add(x); assign([w], [y.tanh()]); return { y, size: y.square().sum() }; });
      let x = big(1), sizes = 0;
      for (let i = 1; i < 8; i++) {
        const out = step(x);
        x = out.y;
        if (i % every === 0) sizes += Math.sign(await out.size.item());
        await pace();
      }
      results.push([...(await w.data()), ...(await x.data())]);
      expect(sizes).toBe(Math.floor(7 / every));
    }
    for (const r of results) expect(r).toEqual(results[0]);
  });
});

describe("errors", () => {
  test("dataSync says why and what to do, for tensors, answers and stores", () => {
    const x = left(big().mul(2)), s = store(big());
    for (const read of [() => big().mul(2).dataSync(), () => x.dataSync(), () => { assign([s], [s.mul(2)]); return s.dataSync(); }, () => explainNaN(x.mul(2))])
      expect(read).toThrow(/can only be read asynchronously[^]*await/);
  });

  test("two devices: an answer and a store move after they were read", async () => {
    const x = left(big().mul(2)), s = store(big(), "s");
    assign([s], [s.mul(2)]);
    expect((await s.mul(1).data())[1]).toBe(2);
    const last = await left(s.mul(1)).data();
    for (const other of [createReference({ name: "near" }), createReference({ name: "other", sync: false })]) {
      setDevice(other);
      const y = setDevice(device) && left(big().mul(2));
      setDevice(other);
      await expect(y.add(1).data()).rejects.toThrow(/lives on far[^]*await t\.data\(\) first/);
      expect(() => compile((t: Tensor) => t.add(1))(y)).toThrow(DeviceError);
      await y.data();
      expect((await y.add(1).data())[3]).toBe(7);
    }
    setDevice(createReference({ name: "near" }));
    await expect(s.add(1).data()).rejects.toThrow(/store s lives on far[^]*await store\.data\(\) first/);
    expect(await s.data()).toEqual(last);
    expect((await s.add(1).data())[1]).toBe(3);                       // the host copy moved
    setDevice(device);
    expect((await s.add(1).data())[1]).toBe(3);                       // and back at once
    expect((await x.data())[1]).toBe(2);
  });

  test("a store that changes after it was read does not move with old numbers", async () => {
    const s = store(big(), "s");
    await s.mul(1).data();
    const first = s.data();
    assign([s], [s.add(1)]);
    await s.mul(1).data();
    expect((await first)[0]).toBe(0);                                 // what it was when it was asked for
    setDevice(referenceBackend);
    await expect(s.add(1).data()).rejects.toThrow(/await store\.data\(\) first/);
    await s.data();
    expect((await s.add(1).data())[0]).toBe(2);
  });

  test("a rejected read is the reader's, never unhandled", async () => {
    const unhandled: unknown[] = [], note = (e: unknown): void => { unhandled.push(e); };
    process.on("unhandledRejection", note);
    try {
      setDevice({ ...device, read: () => Promise.reject(new DeviceError("the device is lost")) });
      const small = left(big().sum()), large = left(big().mul(2)), s = store(big());
      assign([s], [s.add(1)]);
      await turn();
      await expect(small.item()).rejects.toThrow("the device is lost");
      await expect(small.item()).rejects.toThrow("the device is lost");
      await expect(large.data()).rejects.toThrow("the device is lost");
      await expect(s.data()).rejects.toThrow("the device is lost");
      left(big().sum());                                              // nobody asks for this one
      await turn(); await turn();
      expect(unhandled).toEqual([]);
    } finally { process.off("unhandledRejection", note); }
  });

  test("findNaN names the first op on every device", async () => {
    const y = tensor([4, 1, -1]).sqrt().add(1).log().sum();
    expect(await findNaN(y)).toMatchObject({ op: "sqrt", position: 2 });
    expect(await findNaN(tensor([1, 2]).log().sum())).toBeNull();
    await turn();
    expect(device.counters.buffers).toBe(0);
    setDevice(referenceBackend);
    expect(await findNaN(tensor([1, -1]).log().sum())).toMatchObject({ op: "log", position: 1 });
  });
});

test("pace waits until at most two runs are unfinished", async () => {
  let finished = 0;
  const queue: (() => void)[] = [], slow: Backend = {
    ...device,
    async pace(queued) { while (queue.length > queued) { await turn(); queue.shift()?.(); finished++; } },
    run(p, b) { queue.push(() => undefined); return device.run(p, b); },
  };
  setDevice(slow);
  for (let i = 0; i < 5; i++) { left(big(i).mul(2)); await pace(); expect(queue.length).toBeLessThanOrEqual(2); }
  expect(finished).toBe(3);
  await pace(0);
  expect(finished).toBe(5);
  setDevice(referenceBackend);
  await pace();
});
