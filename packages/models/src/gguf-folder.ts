/** A folder whose weights are one GGUF file stands for that file. */
import { fileSystem, node } from "@adjoint/io";
import { ConfigError } from "@adjoint/tensor";

/**
 * The GGUF file that a folder holds in place of safetensors; any other source as it is.
 *
 * @throws ConfigError naming the folder if it holds several
 */
export async function ggufWithin<S extends string | URL>(source: S): Promise<S | string> {
  const name = typeof source === "string" ? source : source.href;
  if (/^https?:/i.test(name)) return source;
  const { path, url } = node(), folder = /^file:/i.test(name) ? url.fileURLToPath(name) : name, names = await fileSystem().list(path.resolve(folder));
  if (names === null || names === "file" || names.some((file) => /\.safetensors(\.index\.json)?$/.test(file))) return source;
  const [found, ...more] = names.filter((file) => /\.gguf$/i.test(file)).sort();
  if (found === undefined) return source;
  if (more.length > 0) throw new ConfigError(`${folder}: holds ${more.length + 1} GGUF files`, { op: "loadModel", file: folder, key: "model", value: [found, ...more], fix: `name one of them, such as ${path.join(folder, found)}` });
  return path.join(folder, found);
}
