/** What the name of a model means: a folder as it is, or a Hugging Face hub id that is downloaded once into a cache folder. */
import { ConfigError, FormatError } from "@adjoint/tensor";
import { FileError, fileSystem, node, readText, writeFileAtomic } from "@adjoint/io";
import { currentCommit, downloadFile, listFiles, smallFiles, UnreachableError, weightFiles } from "./hub-files.ts";
import type { HubFile, Repository, TransferOptions } from "./hub-files.ts";

/** Progress of a download, told after each piece that arrived. */
export interface DownloadProgress {
  readonly file: string;
  /** bytes of this file that are on the disk, and its size */
  readonly fileBytes: number;
  readonly fileSize: number;
  /** bytes of all files of this download that are on the disk, and their sum */
  readonly bytes: number;
  readonly size: number;
}

export interface ResolveModelOptions extends TransferOptions {
  /** where downloads are kept (default: the cache that Python uses: HF_HUB_CACHE, HF_HOME, or ~/.cache/huggingface/hub) */
  readonly cacheDir?: string;
  /** branch, tag or commit (default "main") */
  readonly revision?: string;
  /** address of the hub (default HF_ENDPOINT, or the public hub) */
  readonly endpoint?: string;
  /** for private and gated models (default HF_TOKEN, which only goes to the hub of HF_ENDPOINT or the public one) */
  readonly accessToken?: string;
  readonly onProgress?: (progress: DownloadProgress) => void;
}

/**
 * Path of the folder that holds a model: `idOrDir` itself if it is a folder, else the downloaded snapshot of a hub id.
 *
 * The network is used only for "organisation/name" or an http(s) address, and never when HF_HUB_OFFLINE is 1.
 * A download that breaks off goes on from where it was, within this call and in the next; every file is checked against the hub's hash.
 * If the hub cannot be reached, a snapshot that was once complete is used.
 * @throws FileError or ConfigError naming the id or file, and what to do
 */
export async function resolveModel(idOrDir: string | URL, options: ResolveModelOptions = {}): Promise<string> {
  const name = typeof idOrDir === "string" ? idOrDir : idOrDir.href;
  const folder = await localFolder(name);
  if (folder === null) return download(repositoryOf(name, options), options);
  if (options.revision !== undefined && options.revision !== "main") {
    throw new ConfigError(`${name}: is a folder, and a folder has no revision`, { key: "revision", value: options.revision, fix: "leave the revision out, or give a hub id" });
  }
  return folder;
}

/** The folder that a name means, or null if it is a hub id or address. */
async function localFolder(name: string): Promise<string | null> {
  if (/^https?:\/\//i.test(name)) return null;
  const { path, url } = node();
  const folder = path.resolve(/^file:/i.test(name) ? url.fileURLToPath(name) : name);
  const found = await fileSystem().list(folder);
  if (found === "file") throw new FileError(`${name}: is a file`, { file: folder, fix: "name the folder that holds config.json" });
  if (found !== null) return folder;
  if (/^[A-Za-z0-9][\w.-]*\/[A-Za-z0-9][\w.-]*$/.test(name) && !/\.\.|--/.test(name)) return null;
  throw new FileError(`${name}: no such folder`, { file: folder, value: name, fix: 'check the path; a model of the hub is "organisation/name"' });
}

/** Repository, revision and hub that an id or address names. */
function repositoryOf(name: string, options: ResolveModelOptions): Repository {
  const env = environment();
  const usual = env["HF_ENDPOINT"] ?? "https://huggingface.co";
  let id = name, revision = options.revision, endpoint = options.endpoint ?? usual;
  if (/^https?:\/\//i.test(name)) {
    const url = parseAddress(name);
    const match = /^\/([A-Za-z0-9][\w.-]*\/[A-Za-z0-9][\w.-]*)(?:\/tree\/([^/]+))?\/?$/.exec(url.pathname);
    if (match === null) throw new ConfigError(`${name}: is not the address of a model`, { key: "model", value: name, fix: "use an address such as https://huggingface.co/organisation/name, or the id alone" });
    id = match[1];
    revision ??= match[2] === undefined ? undefined : decodeURIComponent(match[2]);
    endpoint = options.endpoint ?? url.origin;
  }
  revision ??= "main";
  if (!/^[A-Za-z0-9][\w./-]*$/.test(revision) || revision.split("/").includes("..")) {
    throw new ConfigError(`${id}: "${revision}" is no revision`, { key: "revision", value: revision, fix: "give a branch, a tag or a commit" });
  }
  const { href, origin } = parseAddress(endpoint);
  // The token of the environment is for the usual hub: another address that a recipe names does not get it.
  const token = options.accessToken ?? (origin === parseAddress(usual).origin ? env["HF_TOKEN"] : undefined);
  return { id, revision, endpoint: href.replace(/\/+$/, ""), ...(token ? { accessToken: token } : {}) };
}

function parseAddress(address: string): URL {
  const url = URL.canParse(address) ? new URL(address) : undefined;
  if (url?.protocol === "http:" || url?.protocol === "https:") return url;
  throw new ConfigError(`"${address}" is not the address of a hub`, { key: "endpoint", value: address, fix: 'give one such as "https://huggingface.co"' });
}

const environment = (): Readonly<Record<string, string | undefined>> => globalThis.process?.env ?? {};

/** Folders of one repository in the cache, laid out as Python's huggingface_hub does. */
interface Cache {
  readonly ref: string;
  readonly snapshot: (commit: string) => string;
  /** lists the files of a snapshot that was complete */
  readonly marker: (commit: string) => string;
}

function cacheOf(repository: Repository, cacheDir: string | undefined): Cache {
  const { path, os } = node();
  const env = environment();
  const home = env["HF_HOME"] ?? path.join(env["XDG_CACHE_HOME"] ?? path.join(os.homedir(), ".cache"), "huggingface");
  const root = path.join(cacheDir ?? env["HF_HUB_CACHE"] ?? env["HUGGINGFACE_HUB_CACHE"] ?? path.join(home, "hub"), `models--${repository.id.replace("/", "--")}`);
  return {
    ref: path.join(root, "refs", repository.revision),
    snapshot: (commit) => path.join(root, "snapshots", commit),
    marker: (commit) => path.join(root, ".adjoint", `${commit}.json`),
  };
}

async function download(repository: Repository, options: ResolveModelOptions): Promise<string> {
  const cache = cacheOf(repository, options.cacheDir);
  const pinned = /^[0-9a-f]{40}$/.test(repository.revision);
  if (pinned && (await isComplete(cache, repository.revision))) return cache.snapshot(repository.revision);
  if (environment()["HF_HUB_OFFLINE"] === "1") return cachedSnapshot(repository, cache);
  let commit: string;
  try {
    commit = await currentCommit(repository, options);
  } catch (error) {
    if (!(error instanceof UnreachableError)) throw error;
    return cachedSnapshot(repository, cache, error);
  }
  if (!(await isComplete(cache, commit))) await fill(repository, commit, cache, options);
  if (!pinned) await writeFileAtomic(cache.ref, commit);
  return cache.snapshot(commit);
}

/** Downloads what the snapshot lacks, then marks it as complete. */
async function fill(repository: Repository, commit: string, cache: Cache, options: ResolveModelOptions): Promise<void> {
  const folder = cache.snapshot(commit);
  const listed = await listFiles(repository, commit, options);
  const small = smallFiles(listed);
  const large = await weightFiles(repository, listed, async (index) => {
    await transfer(repository, commit, folder, small.filter((file) => file.path === index), options);
    return shardsOf(node().path.join(folder, index));
  });
  const files = [...small, ...large];
  await transfer(repository, commit, folder, files, options);
  await writeFileAtomic(cache.marker(commit), `${JSON.stringify(Object.fromEntries(files.map((file) => [file.path, file.size])))}\n`);
}

async function transfer(repository: Repository, commit: string, folder: string, files: readonly HubFile[], options: ResolveModelOptions): Promise<void> {
  const size = files.reduce((n, file) => n + file.size, 0);
  let before = 0;
  for (const file of files) {
    const path = node().path.join(folder, file.path);
    if ((await sizeOf(path)) !== file.size) {
      await downloadFile(repository, commit, file, path, options, (fileBytes) => options.onProgress?.({ file: file.path, fileBytes, fileSize: file.size, bytes: before + fileBytes, size }));
    }
    before += file.size;
  }
}

/** The snapshot that the revision last stood for, if it is complete; else the error that names the reason. */
async function cachedSnapshot(repository: Repository, cache: Cache, cause?: UnreachableError): Promise<string> {
  const commit = await readText(cache.ref).then((text) => text.trim(), () => "");
  if (/^[0-9a-f]{40}$/.test(commit) && (await isComplete(cache, commit))) return cache.snapshot(commit);
  if (cause !== undefined) throw cause;
  throw new FileError(`${repository.id}: is not in the cache at revision "${repository.revision}", and HF_HUB_OFFLINE is 1`, { file: cache.ref, value: repository.id, fix: "unset HF_HUB_OFFLINE once, or give the model's folder" });
}

async function isComplete(cache: Cache, commit: string): Promise<boolean> {
  const sizes = await readJson(cache.marker(commit)).catch(() => null); // a damaged marker is no marker
  if (typeof sizes !== "object" || sizes === null) return false;
  const files = Object.entries(sizes);
  for (const [name, size] of files) if ((await sizeOf(node().path.join(cache.snapshot(commit), name))) !== size) return false;
  return files.length > 0;
}

async function readJson(file: string): Promise<unknown> {
  return JSON.parse(await readText(file));
}

const sizeOf = (path: string): Promise<number | undefined> => node().fs.stat(path).then((stat) => stat.size, () => undefined);

/** File names in an index of shards. */
async function shardsOf(index: string): Promise<string[]> {
  const value = await readJson(index).catch(() => null);
  const map = typeof value === "object" && value !== null && "weight_map" in value ? value.weight_map : undefined;
  const names: unknown[] = typeof map === "object" && map !== null ? [...new Set(Object.values(map))] : [];
  if (names.length > 0 && names.every((name) => typeof name === "string")) return names.sort();
  throw new FormatError(`${index}: weight_map names no files`, { file: index, key: "weight_map", value: map, fix: "choose another revision: this one is damaged" });
}
