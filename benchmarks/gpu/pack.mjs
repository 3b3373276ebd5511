/**
 * `npm run benchmark -- gpu --pack DIR`: a folder that runs the GPU benchmark on a bare x86-64 Linux machine with an NVIDIA driver:
 * this Node, Dawn, a Vulkan loader, the client libraries that the driver's Vulkan part wants, the bundled benchmark and the bundled WebGPU rivals.
 * There: `sh DIR/run.sh [options of the benchmark]`.
 */
import { spawnSync } from "node:child_process";
import { chmodSync, copyFileSync, cpSync, existsSync, mkdirSync, mkdtempSync, realpathSync, rmSync, statSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";

/** wanted by libGLX_nvidia.so.0, which is NVIDIA's Vulkan driver, also without a display */
const CLIENT = ["libX11.so.6", "libXext.so.6", "libxcb.so.1", "libXau.so.6", "libXdmcp.so.6", "libbsd.so.0", "libmd.so.0", "libGLdispatch.so.0", "libEGL.so.1", "libGLX.so.0"];

const RUN = `#!/bin/sh
# Runs the GPU benchmark of adjoint on this machine; options as for "npm run benchmark -- gpu".
set -eu
here=$(cd "$(dirname "$0")" && pwd); rt=\${ADJOINT_RUNTIME:-\${TMPDIR:-/tmp}/adjoint-gpu}
if [ ! -x "$rt/bin/node" ]; then
  mkdir -p "$rt"
  if command -v xz >/dev/null || [ ! -f "$here/runtime.tar.xz" ]; then tar -C "$rt" -xf "$here"/runtime.tar.*
  else python3 -c "import sys, tarfile; tarfile.open(sys.argv[1]).extractall(sys.argv[2])" "$here/runtime.tar.xz" "$rt"; fi
fi
has() { ldconfig -p 2>/dev/null | grep -q "$1 "; }
# the machine's own libraries first; ours only where it has none
has 'libvulkan\\.so\\.1' || LD_LIBRARY_PATH="$rt/lib\${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
{ has 'libX11\\.so\\.6' && has 'libXext\\.so\\.6'; } || LD_LIBRARY_PATH="\${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$rt/client"
export LD_LIBRARY_PATH="\${LD_LIBRARY_PATH:-}"
if [ -z "\${VK_DRIVER_FILES:-}" ]; then
  for f in /etc/vulkan/icd.d/nvidia_icd.json /usr/share/vulkan/icd.d/nvidia_icd.json /usr/local/nvidia/share/vulkan/icd.d/nvidia_icd.json; do
    if [ -f "$f" ]; then export VK_DRIVER_FILES="$f"; break; fi
  done
fi
exec "$rt/bin/node" "$rt/benchmark/main.js" --children "$rt/benchmark" "$@"
`;

/** Where the loader finds a library. */
function library(name) {
  const { stdout = "" } = spawnSync("ldconfig", ["-p"], { encoding: "utf8" });
  const line = stdout.split("\n").find((l) => l.trim().startsWith(`${name} `) && l.includes("x86-64"));
  return line === undefined ? null : realpathSync(line.split("=> ")[1].trim());
}

/** Packs the bundle in `made` into `folder`; `vulkan` is a loader to take where the machine has none. */
export function pack(made, folder, { from, vulkan, say }) {
  if (process.platform !== "linux" || process.arch !== "x64") throw new Error("--pack: packing needs Linux on x86-64, since it takes this machine's Node and libraries along");
  const work = mkdtempSync(join(tmpdir(), "adjoint-pack-")), into = (...parts) => { const p = join(work, ...parts); mkdirSync(dirname(p), { recursive: true }); return p; };
  try {
    copyFileSync(process.execPath, into("bin", "node"));
    chmodSync(join(work, "bin", "node"), 0o755);
    spawnSync("strip", [join(work, "bin", "node")]);
    const loader = library("libvulkan.so.1") ?? vulkan;
    if (loader === null || !existsSync(loader)) throw new Error("--pack: no libvulkan.so.1 was found here; install libvulkan1");
    copyFileSync(loader, into("lib", "libvulkan.so.1"));
    const missing = CLIENT.filter((name) => { const path = library(name); if (path !== null) copyFileSync(path, into("client", name)); return path === null; });
    if (missing.length > 0) say(`pack: not here, so not taken along (the machine may have its own): ${missing.join(", ")}`);
    const dawn = dirname(createRequire(join(from, "package.json")).resolve("webgpu/package.json")), home = into("benchmark", "node_modules", "webgpu", "x");
    for (const file of ["index.js", "package.json", "dist/linux-x64.dawn.node", "dist/linux-x64/dawn.node"]) {
      if (existsSync(join(dawn, file))) cpSync(join(dawn, file), join(dirname(home), file), { recursive: true });
    }
    for (const file of ["main.js", "adjoint.js", "torch_child.py", "package.json"]) copyFileSync(join(made, file), into("benchmark", file));
    const rivals = ["jax-rival.js", "tfjs-rival.js"].filter((file) => existsSync(join(made, file)));
    for (const file of rivals) copyFileSync(join(made, file), into("benchmark", file));
    if (rivals.length === 0) say("pack: without the WebGPU rivals");
    mkdirSync(folder, { recursive: true });
    const xz = spawnSync("xz", ["--version"]).status === 0, archive = join(folder, `runtime.tar.${xz ? "xz" : "gz"}`);
    for (const old of ["runtime.tar.xz", "runtime.tar.gz"]) rmSync(join(folder, old), { force: true });
    const done = spawnSync("tar", ["-C", work, xz ? "-cJf" : "-czf", archive, "."], { env: { ...process.env, XZ_OPT: "-3" } });
    if (done.status !== 0) throw new Error(`--pack: tar failed: ${String(done.stderr).trim()}`);
    writeFileSync(join(folder, "run.sh"), RUN, { mode: 0o755 });
    say(`packed ${join(folder, "run.sh")} and ${archive} (${(statSync(archive).size / 2 ** 20).toFixed(1)} MiB)`);
  } finally { rmSync(work, { recursive: true, force: true }); }
}
