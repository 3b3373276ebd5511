/** Answers that have stayed on their device: bound as inputs there, read when somebody asks, freed once read or forgotten. */
import type { Backend, DeviceBuffer, RunResult } from "./backend.ts";
import { bytesOf, type TypedArray } from "./dtype.ts";
import { DeviceError } from "./errors.ts";
import { type Resident, type Tensor, hasNumbers } from "./tensor.ts";

/** answers of at most so many bytes are fetched at once: losses, norms and flags cost no wait when they are read */
const EAGER_BYTES = 1024;

/** A device buffer that several equal tensors may share; it owns the buffer. */
class Answer implements Resident {
  readonly device: Backend;
  readonly buffer: DeviceBuffer;
  /** weak, so that an answer under way keeps nobody alive */
  readonly #tensors: WeakRef<Tensor>[] = [];
  #reading: Promise<void> | null = null;
  constructor(device: Backend, buffer: DeviceBuffer) {
    this.device = device; this.buffer = buffer;
    forgotten.register(this, { device, buffer }, this);
  }
  give(t: Tensor): void { t.resident = this; this.#tensors.push(new WeakRef(t)); }
  arrive(): Promise<void> {
    if (!this.#reading) {
      this.#reading = this.#read();
      this.#reading.catch(() => undefined);               // whoever asks for the numbers gets the rejection
    }
    return this.#reading;
  }
  async #read(): Promise<void> {
    const data = await this.device.read(this.buffer);
    for (const ref of this.#tensors) {
      const t = ref.deref();
      if (t) { t.value = { dtype: t.dtype, shape: t.shape, data }; t.resident = null; }
    }
    forgotten.unregister(this);
    this.device.free(this.buffer);
  }
}
const forgotten = new FinalizationRegistry<{ device: Backend; buffer: DeviceBuffer }>(({ device, buffer }) => { device.free(buffer); });

/** Takes the answers of a run that its device keeps; small ones start on their way to the host at once. */
export function receive(device: Backend, result: RunResult, tensors: readonly Tensor[], positions: readonly number[]): void {
  const answers = new Map<number, Answer>();
  tensors.forEach((t, i) => {
    if (hasNumbers(t)) return;
    let a = answers.get(positions[i]);
    if (!a) answers.set(positions[i], (a = new Answer(device, taken(device, result, positions[i]))));
    a.give(t);
  });
  for (const a of answers.values()) if (a.buffer.length * bytesOf(a.buffer.dtype) <= EAGER_BYTES) void a.arrive();
}
function taken(device: Backend, result: RunResult, position: number): DeviceBuffer {
  if (!result.take) throw new DeviceError(`${device.name}: a run has neither readSync nor take`, { op: "run" });
  return result.take(position);
}

/** What a plan is given for a value that is there: host numbers, or the buffer where they still are. */
export function boundTo(t: Tensor, device: Backend): TypedArray | DeviceBuffer {
  if (t.value) return t.value.data;
  if (!t.resident) throw new DeviceError(`${t.op.name} has no numbers yet`, { op: "run" });
  if (t.resident.device !== device) throw new DeviceError(`a value${t.name ? ` (${t.name})` : ""} of shape [${t.shape.join(", ")}] lives on ${t.resident.device.name}, which cannot be read at once; it is wanted on ${device.name}`, { op: "run", key: t.name, shapes: [t.shape], fix: "await t.data() first" });
  return t.resident.buffer;
}
