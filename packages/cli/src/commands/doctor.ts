/** `adjoint doctor`: what this machine can compute with, what is missing, and how to get it. */
import { fileSystem, node } from "@adjoint/io";
import { AdjointError } from "@adjoint/tensor";
import { defaultRecipe } from "@adjoint/train";
import type { AdapterReport } from "@adjoint/webgpu";
import type { Arguments } from "../arguments.ts";
import type { Answer, Command } from "../command.ts";
import { defaultThreads, findGpu } from "../devices.ts";
import { bytes, padEnd, paint, type Terminal } from "../terminal.ts";

/** One thing that was looked at; `cure` says what to do where it is missing. */
interface Finding { readonly name: string; readonly ok: boolean | null; readonly text: string; readonly cure?: string }

const exists = async (path: string): Promise<boolean> => (await fileSystem().list(path)) !== null;

/** Vulkan's drivers on Linux are JSON files that name a library. */
async function vulkanDrivers(): Promise<readonly string[]> {
  const given = process.env["VK_DRIVER_FILES"] ?? process.env["VK_ICD_FILENAMES"];
  if (given !== undefined && given !== "") return given.split(":");
  const found: string[] = [];
  for (const folder of ["/etc/vulkan/icd.d", "/usr/share/vulkan/icd.d", "/usr/local/share/vulkan/icd.d", "/usr/local/nvidia/share/vulkan/icd.d"]) {
    const names = await fileSystem().list(folder);
    if (Array.isArray(names)) found.push(...names.filter((n: string) => n.endsWith(".json")).map((n: string) => `${folder}/${n}`));
  }
  return found;
}
/** Whether the loader finds Vulkan's library. */
async function vulkanLoader(): Promise<boolean> {
  const folders = [...(process.env["LD_LIBRARY_PATH"] ?? "").split(":").filter((f) => f !== ""), "/lib", "/usr/lib", "/usr/lib64", "/usr/local/lib", `/usr/lib/${process.arch === "arm64" ? "aarch64" : "x86_64"}-linux-gnu`];
  for (const folder of folders) if (await exists(`${folder}/libvulkan.so.1`)) return true;
  return false;
}

async function linux(): Promise<Finding[]> {
  const loader = await vulkanLoader(), drivers = await vulkanDrivers(), nvidia = await exists("/proc/driver/nvidia/version"), nodes = await exists("/dev/dri");
  return [
    { name: "gpu", ok: nvidia || nodes ? true : null, text: nvidia ? "an NVIDIA driver is loaded" : nodes ? "a graphics device is there (/dev/dri)" : "no graphics device is visible to this process", ...(nvidia || nodes ? {} : { cure: "in a container, pass the GPU in (docker run --gpus all, or --device /dev/dri)" }) },
    { name: "vulkan", ok: loader, text: loader ? "libvulkan.so.1 is there" : "libvulkan.so.1 is missing", ...(loader ? {} : { cure: "Debian, Ubuntu: apt-get install libvulkan1" }) },
    { name: "driver", ok: drivers.length > 0, text: drivers.length > 0 ? drivers.join(", ") : "no Vulkan driver is registered", ...(drivers.length > 0 ? {} : { cure: nvidia ? "install the driver's Vulkan part, or set VK_DRIVER_FILES to its nvidia_icd.json" : "AMD, Intel: apt-get install mesa-vulkan-drivers; NVIDIA: the vendor's driver" }) },
  ];
}

const describe = (a: AdapterReport, i: number): Finding => {
  const has = (f: string): boolean => a.features.includes(f), memory = a.limits["maxStorageBufferBindingSize"] ?? 0;
  const matrix = a.matrix.filter((c) => c.component === "f16").map((c) => `${c.m}x${c.n}x${c.k}`);
  return {
    name: `adapter ${i}`, ok: a.software ? null : true,
    text: [
      [a.vendor, a.architecture, a.description || a.device].filter((t) => t !== "").join(" "), has("shader-f16") ? "f16" : "f16 packed", a.subgroups === null ? "no subgroups" : `subgroups of ${a.subgroups.min === a.subgroups.max ? a.subgroups.min : `${a.subgroups.min} to ${a.subgroups.max}`}`,
      matrix.length > 0 ? `matrix units ${[...new Set(matrix)].join(", ")}` : "no matrix units", `buffers to ${bytes(memory)}`,
    ].join(", "),
    ...(a.software ? { cure: "this is a program on the CPU: right, but slower than --device cpu; auto never takes it" } : {}),
  };
};

async function gpuFindings(): Promise<{ findings: Finding[]; adapters: readonly AdapterReport[] }> {
  try {
    const { adapters } = await import("@adjoint/webgpu"), all = await adapters();
    return { findings: [{ name: "webgpu", ok: true, text: "the npm package webgpu (Dawn) is installed" }, ...(all.length === 0 ? [{ name: "adapter", ok: false, text: "none was found" }] : all.map(describe))], adapters: all };
  } catch (error) {
    if (!(error instanceof AdjointError)) throw error;
    const { fix } = error.details;
    return { findings: [{ name: "webgpu", ok: false, text: error.message.split("\n")[0].replace(/^webgpu: /, ""), ...(fix === undefined ? {} : { cure: fix }) }], adapters: [] };
  }
}

async function run(_args: Arguments, terminal: Terminal): Promise<Answer> {
  const { hasRelaxed } = await import("@adjoint/wasm"), { os } = node(), found = await findGpu(), { findings: webgpu, adapters } = await gpuFindings();
  const findings: Finding[] = [
    { name: "node", ok: true, text: `${process.versions.node} on ${process.platform}-${process.arch}, ${os.availableParallelism()} cores, ${bytes(os.totalmem())}` },
    { name: "cpu", ok: true, text: `wasm with SIMD, ${defaultThreads()} ${defaultThreads() === 1 ? "thread" : "threads"}, fused multiply-add ${hasRelaxed() ? "yes" : "no (Node 22 or newer has it)"}` },
    ...webgpu,
    ...(process.platform === "linux" && "none" in found ? await linux() : []),
  ];
  const auto = "none" in found ? "cpu" : "webgpu", why = "none" in found ? found.none : [found.adapter.vendor, found.adapter.architecture, found.adapter.description].filter((t) => t !== "").join(" ");
  const { dim, green, amber, red } = paint({ color: terminal.colorOut });
  const mark = (ok: boolean | null): string => (ok === null ? amber("-") : ok ? green("✓") : red("✗"));
  const lines = findings.flatMap(({ name, ok, text, cure }) => [`${mark(ok)} ${dim(padEnd(name, 10))} ${text}`, ...(cure === undefined ? [] : [`  ${padEnd("", 10)} ${amber("→")} ${cure}`])]);
  return { text: `${lines.join("\n")}\n\n  ${dim(padEnd("auto", 10))} --device auto is ${auto} here: ${why}\n`, json: { auto, reason: why, node: process.versions.node, platform: process.platform, arch: process.arch, threads: defaultThreads(), findings, adapters } };
}

export const doctor: Command = {
  grammar: {
    name: "doctor", positionals: [], keys: [], flags: {}, summary: "Says what this machine can compute with, what is missing, and how to get it.",
    text: "Looks at Node, the CPU backend, the npm package webgpu, its adapters and, on Linux, Vulkan.", examples: ["adjoint doctor", "adjoint doctor --json"],
  },
  defaults: defaultRecipe,
  run,
};
