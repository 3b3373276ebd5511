/** Where a model's files are read from: a folder of this machine, or, in a page, addresses and Blobs by file name. */
import { blobSource, bytesSource, decodeText, FileError, node, openModelFolder, openSafetensors, readText, type SafetensorsFile } from "@adjoint/io";
import { FormatError } from "@adjoint/tensor";

/** A model's files by name: config.json, model.safetensors (or its shards), tokenizer.json, ...; an address is fetched when it is needed. */
export type ModelFiles = Readonly<Record<string, URL | Blob | Uint8Array>>;

/** Files of one model. */
export interface Origin {
  /** how errors name a file */
  label(name: string): string;
  has(name: string): Promise<boolean>;
  text(name: string): Promise<string>;
  weights(): Promise<SafetensorsFile>;
}

export const isModelFiles = (source: string | URL | ModelFiles): source is ModelFiles => typeof source === "object" && !(source instanceof URL);

export function folderOrigin(folder: string): Origin {
  const { path, fs } = node(), label = (name: string): string => path.join(folder, name);
  return {
    label,
    has: (name) => fs.access(label(name)).then(() => true, () => false),
    text: (name) => readText(label(name)),
    weights: () => openModelFolder(folder),
  };
}

export function filesOrigin(files: ModelFiles): Origin {
  const label = (name: string): string => { const file = files[name]; return file instanceof URL && file.protocol !== "data:" ? file.href : name; };
  const blob = async (name: string): Promise<Blob | Uint8Array> => {
    if (!Object.hasOwn(files, name)) throw new FileError(`${name}: is not among the model's files`, { file: name, value: Object.keys(files), fix: `add ${name} to the files` });
    const file = files[name];
    return file instanceof URL ? fetched(file, label(name)) : file;
  };
  return {
    label,
    has: async (name) => Object.hasOwn(files, name),
    text: async (name) => { const b = await blob(name); return decodeText(b instanceof Uint8Array ? b : new Uint8Array(await b.arrayBuffer()), label(name)); },
    async weights() {
      const names = Object.keys(files).filter((name) => name.endsWith(".safetensors")).sort();
      if (names.length === 0) throw new FileError("model.safetensors: is not among the model's files", { file: "model.safetensors", value: Object.keys(files), fix: "add it, or all of its shards, to the files" });
      const parts: SafetensorsFile[] = [];
      for (const name of names) {
        const b = await blob(name);
        parts.push(await openSafetensors(b instanceof Uint8Array ? bytesSource(b, label(name)) : blobSource(b, label(name))));
      }
      return parts.length === 1 ? parts[0] : joined(parts);
    },
  };
}

async function fetched(address: URL, label: string): Promise<Blob> {
  let response: Response;
  try {
    response = await fetch(address);
  } catch (cause) {
    throw new FileError(`${label}: cannot be fetched`, { file: label, cause, fix: "check the address, and that its server lets this page read it (CORS)" });
  }
  if (!response.ok) throw new FileError(`${label}: the server answers ${response.status}`, { file: label, value: response.status, fix: "check the address" });
  return response.blob();
}

/** Shards as one file. */
function joined(parts: readonly SafetensorsFile[]): SafetensorsFile {
  const homes = new Map<string, SafetensorsFile>();
  for (const part of parts) {
    for (const name of part.entries.keys()) {
      if (homes.has(name)) throw new FormatError(`${part.label}: "${name}" is in another shard too`, { file: part.label, key: name, fix: "give the shards of one model only" });
      homes.set(name, part);
    }
  }
  return {
    label: parts.map(({ label }) => label).join(", "), metadata: parts[0].metadata, entries: new Map(parts.flatMap(({ entries }) => [...entries])),
    read: (name) => (homes.get(name) ?? parts[0]).read(name), readPart: (name, from, into) => (homes.get(name) ?? parts[0]).readPart(name, from, into),
    close: async () => { for (const part of parts) await part.close(); },
  };
}
