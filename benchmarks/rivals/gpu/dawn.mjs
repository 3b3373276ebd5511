/**
 * What a page would give the rivals: `navigator.gpu` and the GPU constants, by Dawn, with the switches that adjoint runs with
 * (`checked`: with validation instead, so that a call which means nothing is an error and not a fast answer). Imported before them.
 * It also counts what they hold in device buffers, and keeps the errors that nobody asked for.
 */
import { create, globals } from "webgpu";

const checked = process.argv.includes("checked");
const on = ["allow_unsafe_apis", "vulkan_enable_f16_on_nvidia", ...(checked ? [] : ["skip_validation", "disable_robustness", "disable_workgroup_init"])];
const gpu = create([`enable-dawn-features=${on.join(",")}`, ...(checked ? [] : ["disable-dawn-features=lazy_clear_resource_on_first_use"])]);

/** what was seen: the adapter, the device, errors, and the peak of bytes in buffers */
export const seen = { adapter: "", software: false, device: null, errors: [], bytes: 0, peak: 0 };

function watch(device) {
  const make = device.createBuffer.bind(device);
  device.createBuffer = (descriptor) => {
    const buffer = make(descriptor), destroy = buffer.destroy.bind(buffer), { size } = descriptor;
    let held = true;
    seen.peak = Math.max(seen.peak, (seen.bytes += size));
    buffer.destroy = () => { if (held) { held = false; seen.bytes -= size; } destroy(); };
    return buffer;
  };
  device.addEventListener("uncapturederror", ({ error }) => { seen.errors.push(error.message); });
  device.lost.then(({ reason, message }) => { seen.errors.push(`the device was lost: ${reason}: ${message}`); });
  return device;
}
const requestAdapter = gpu.requestAdapter.bind(gpu);
gpu.requestAdapter = async (options) => {
  const adapter = await requestAdapter(options);
  if (adapter === null) return null;
  const { vendor, architecture, description, device: name } = adapter.info, request = adapter.requestDevice.bind(adapter);
  seen.adapter = [vendor, architecture, description || name].filter((x) => x !== "").join(" ");
  seen.software = adapter.info.isFallbackAdapter === true;
  // a browser turns each feature into a string: tfjs gives one in an array
  adapter.requestDevice = async (d = {}) => (seen.device = watch(await request({ ...d, requiredFeatures: [...(d.requiredFeatures ?? [])].map(String) })));
  return adapter;
};
Object.assign(globalThis, globals);
if (globalThis.navigator === undefined) Object.defineProperty(globalThis, "navigator", { value: { userAgent: "Node", gpu }, configurable: true });
else Object.defineProperty(globalThis.navigator, "gpu", { value: gpu, configurable: true });
