/** What goes wrong on a device, said in words: compile errors with their line, validation errors with their kernel. */
import { DeviceError } from "@adjoint/tensor";

export const asError = (e: unknown): Error => (e instanceof Error ? e : new DeviceError(messageOf(e)));
export const messageOf = (e: unknown): string => (e instanceof Error ? e.message : typeof e === "object" && e !== null && "message" in e ? String(e.message) : String(e));

/** A kernel whose text the driver refuses: the message, the line, and the kernel's name. */
export function compileError(label: string, code: string, messages: readonly { readonly message: string; readonly lineNum: number; readonly type: string }[], otherwise: string): DeviceError {
  const lines = code.split("\n"), errors = messages.filter((m) => m.type === "error");
  const said = errors.slice(0, 3).map((m) => `\n  line ${m.lineNum}: ${m.message.trim()}\n    ${(lines[m.lineNum - 1] ?? "").trim().slice(0, 240)}`).join("");
  return new DeviceError(`webgpu: the kernel "${label}" does not compile${said === "" ? `: ${otherwise}` : said}`, { op: label, value: code });
}

/** An error that the device reported some time after the call that caused it. */
export function reported(error: { readonly message: string }, what: string, memory: () => string): DeviceError {
  const kind = error.constructor?.name ?? "";
  if (/OutOfMemory/.test(kind) || /out of memory/i.test(error.message)) return outOfMemory(error.message, memory());
  return new DeviceError(`webgpu: ${what}: ${error.message.trim()}`, { cause: error });
}
export function outOfMemory(message: string, report: string): DeviceError {
  return new DeviceError(`webgpu: the device is out of memory (${message.trim().split("\n")[0]})\n${report}`, {
    fix: "use shorter sequences or smaller batches, accumulate gradients, recompute activations (checkpointing), or keep weights in half precision",
  });
}

export const LOST_FIX = "the numbers on the device are gone: resume from the last checkpoint; the next call uses a new device";
export function lostError(reason: string, message: string): DeviceError {
  return new DeviceError(`webgpu: the device was lost (${reason}${message === "" ? "" : `: ${message.trim()}`})`, { key: "lost", value: reason, fix: LOST_FIX });
}
export const closedError = (): DeviceError => new DeviceError("webgpu: the backend was closed", { key: "closed", fix: "make another one: await webgpu()" });
