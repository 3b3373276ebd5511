/** One repository of the Hugging Face hub: its current commit, the files a model needs, and their resumable download. */
import { FormatError } from "@adjoint/tensor";
import { FileError, incompletePath, node, writeFileResumable } from "@adjoint/io";

/** Repository, revision and hub. */
export interface Repository {
  /** organisation/name */
  readonly id: string;
  readonly revision: string;
  /** address without a final slash */
  readonly endpoint: string;
  readonly accessToken?: string;
}

/** A file of a repository as the hub lists it. */
export interface HubFile {
  readonly path: string;
  readonly size: number;
  /** hash of the content: of the bytes for large files, git's blob hash for small ones */
  readonly hash: { readonly algorithm: "sha256" | "git"; readonly hex: string };
}

export interface TransferOptions {
  readonly signal?: AbortSignal;
  /** how often a request that fails, or a transfer that breaks off without a new byte, is tried again (default 4) */
  readonly retries?: number;
  /** milliseconds before the first new try; doubles each time (default 500) */
  readonly retryDelay?: number;
}

/** The hub did not answer, as opposed to: it answered no. */
export class UnreachableError extends FileError {}

const INDEX = "model.safetensors.index.json";
const small = /^(config|generation_config|adapter_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|chat_template|model\.safetensors\.index)\.json$|^(merges|vocab)\.txt$|^chat_template\.jinja$/;
const weights = ["model.safetensors", "adapter_model.safetensors"];

/** The commit that the repository's revision stands for now. */
export async function currentCommit(repository: Repository, options: TransferOptions): Promise<string> {
  const { modelInfo } = await import("@huggingface/hub");
  const info = await asked(repository, options, () => modelInfo({ ...request(repository, options), name: repository.id, revision: repository.revision, additionalFields: ["sha"] }));
  if (!/^[0-9a-f]{40}$/.test(info.sha)) throw new FormatError(`${repository.id}: the hub names "${info.sha}" as commit`, { key: "sha", value: info.sha, fix: "check the endpoint: this is no Hugging Face hub" });
  return info.sha;
}

/** Every file at the top of the repository. */
export async function listFiles(repository: Repository, commit: string, options: TransferOptions): Promise<HubFile[]> {
  const hub = await import("@huggingface/hub");
  return asked(repository, options, async () => {
    const files: HubFile[] = [];
    for await (const entry of hub.listFiles({ ...request(repository, options), repo: repository.id, revision: commit })) {
      if (entry.type !== "file" || !/^\w[\w. +-]*$/.test(entry.path)) continue; // names come from outside and become paths
      files.push({ path: entry.path, size: entry.size, hash: entry.lfs === undefined ? { algorithm: "git", hex: entry.oid ?? "" } : { algorithm: "sha256", hex: entry.lfs.oid } });
    }
    return files;
  });
}

/** The files without tensors that a model needs, the shards' index among them. */
export const smallFiles = (files: readonly HubFile[]): HubFile[] => files.filter((file) => small.test(file.path));

/**
 * The weight files: those of one file if they are there, else the shards of the index.
 *
 * @param shards reads the index and gives its file names
 * @throws FileError if there are none, or one is missing
 */
export async function weightFiles(repository: Repository, files: readonly HubFile[], shards: (index: string) => Promise<readonly string[]>): Promise<HubFile[]> {
  const whole = files.filter((file) => weights.includes(file.path));
  if (whole.length > 0) return whole;
  if (!files.some((file) => file.path === INDEX)) {
    const others = files.map((file) => file.path).filter((path) => /\.(bin|pth|pt|gguf|h5|msgpack|safetensors)$/.test(path));
    throw new FileError(`${repository.id}: has no model.safetensors`, { value: others, fix: "choose a repository with safetensors weights, or convert this one" });
  }
  return (await shards(INDEX)).map((name) => {
    const file = files.find(({ path }) => path === name);
    if (file === undefined) throw new FileError(`${repository.id}: the index names ${name}, which is not there`, { file: name, fix: "choose another revision: this one is incomplete" });
    return file;
  });
}

/**
 * Downloads one file to `path`, from where an earlier call broke off, and checks its hash.
 *
 * @param onBytes is told how many bytes are on the disk
 */
export async function downloadFile(repository: Repository, commit: string, file: HubFile, path: string, options: TransferOptions, onBytes: (bytes: number) => void): Promise<void> {
  let have = 0;
  await retrying(options, () => have, async () => {
    await writeFileResumable(path, async (start) => {
      onBytes((have = start));
      const stream = start < file.size ? await bytesFrom(repository, commit, file, start, options) : [];
      return (async function* () {
        for await (const bytes of stream) {
          yield bytes;
          onBytes((have += bytes.byteLength));
        }
        if (have < file.size) throw new Error(`the connection ended at byte ${have} of ${file.size}`);
      })();
    }, (gathered) => checkHash(repository, file, gathered));
  }).catch((error: unknown) => {
    options.signal?.throwIfAborted();
    if (error instanceof FileError || error instanceof FormatError) throw error;
    throw new UnreachableError(`${repository.id}: the download of ${file.path} broke off at byte ${have} of ${file.size} (${messageOf(error)})`, {
      file: incompletePath(path), value: have, fix: "run the same command again: it goes on from there", cause: error,
    });
  });
}

async function bytesFrom(repository: Repository, commit: string, file: HubFile, start: number, options: TransferOptions): Promise<ReadableStream<Uint8Array>> {
  const hub = await import("@huggingface/hub");
  // The plain transfer: it can begin anywhere, which the chunked one (xet) would have to be trusted with.
  const blob = await hub.downloadFile({ ...request(repository, options), repo: repository.id, path: file.path, revision: commit, xet: false });
  if (blob === null) throw new FileError(`${repository.id}: ${file.path} is not there`, { file: file.path, fix: "choose another revision" });
  if (blob.size !== file.size) throw new FormatError(`${repository.id}: ${file.path} has ${blob.size} bytes, the hub lists ${file.size}`, { file: file.path, value: blob.size, fix: "try again later" });
  return blob.slice(start).stream();
}

/** A stream that is aborted by the library rejects with text, hence no instanceof. */
const messageOf = (error: unknown): string => {
  if (!(error instanceof Error)) return String(error);
  return error.cause instanceof Error && error.cause.message !== "" ? `${error.message}: ${error.cause.message}` : error.message;
};

/** Repeats work that fails for want of a connection; the count starts again whenever bytes arrived. */
async function retrying<T>({ signal, retries = 4, retryDelay = 500 }: TransferOptions, progress: () => number, work: () => Promise<T>): Promise<T> {
  for (let tries = 0, before = progress(); ; tries++) {
    try {
      return await work();
    } catch (error) {
      if (signal?.aborted === true || !isTransient(error)) throw error;
      if (progress() > before) tries = 0;
      before = progress();
      if (tries >= retries) throw error;
      await pause(Math.min(retryDelay * 2 ** tries, 10_000), signal);
    }
  }
}

/** Waits, or until the signal; then throws the signal's reason. */
async function pause(ms: number, signal: AbortSignal | undefined): Promise<void> {
  await new Promise<void>((resolve) => {
    const timer = setTimeout(done, ms);
    function done(): void {
      clearTimeout(timer);
      signal?.removeEventListener("abort", done);
      resolve();
    }
    signal?.addEventListener("abort", done);
  });
  signal?.throwIfAborted();
}

const statusOf = (error: unknown): number | undefined =>
  error instanceof Error && "statusCode" in error && typeof error.statusCode === "number" ? error.statusCode : undefined;

/** Worth another try: no connection, a server in trouble, too many requests. The disk's errors and refusals are not. */
function isTransient(error: unknown): boolean {
  const status = statusOf(error);
  if (status !== undefined) return status >= 500 || status === 408 || status === 429;
  return !(error instanceof FileError) && !(error instanceof FormatError);
}

/** A question to the hub's interface, with new tries, and errors that name id and fix. */
async function asked<T>(repository: Repository, options: TransferOptions, question: () => Promise<T>): Promise<T> {
  try {
    return await retrying(options, () => 0, question);
  } catch (error) {
    options.signal?.throwIfAborted();
    const { id, revision, endpoint } = repository;
    const status = statusOf(error);
    if (status === 401 || status === 403 || status === 404) {
      throw new FileError(`${id}: ${endpoint} has no such model at revision "${revision}", or keeps it private (${status})`, {
        value: id, fix: "check id and revision, or set HF_TOKEN if the model is yours or gated; a folder of this name is not here either", cause: error,
      });
    }
    if (!isTransient(error)) throw new FileError(`${id}: ${endpoint} refused (${messageOf(error)})`, { value: status, fix: "check id, revision and endpoint", cause: error });
    throw new UnreachableError(`${id}: ${endpoint} cannot be reached (${messageOf(error)})`, { value: endpoint, fix: "check the connection, or give a folder", cause: error });
  }
}

const request = ({ endpoint, accessToken }: Repository, { signal }: TransferOptions): { hubUrl: string; fetch: typeof fetch; accessToken?: string } => ({
  hubUrl: endpoint,
  fetch: async (input, init) => {
    const response = await fetch(input, { ...init, ...(signal === undefined ? {} : { signal }) });
    const start = Number(/^bytes=(\d+)-/.exec(new Headers(init?.headers).get("range") ?? "")?.[1] ?? 0);
    if (start > 0 && response.status === 200) throw new FileError(`${typeof input === "string" ? input : "url" in input ? input.url : input.href}: the server cannot go on from byte ${start}`, { value: start, fix: "remove the .incomplete file and try again, or use another endpoint" });
    return response;
  },
  ...(accessToken === undefined ? {} : { accessToken }),
});

async function checkHash(repository: Repository, { path, size, hash }: HubFile, gathered: string): Promise<void> {
  const { crypto, fs } = node();
  const digest = crypto.createHash(hash.algorithm === "git" ? "sha1" : "sha256");
  if (hash.algorithm === "git") digest.update(`blob ${size}\0`);
  const file = await fs.open(gathered, "r");
  try {
    const all: AsyncIterable<Uint8Array> = file.createReadStream({ autoClose: false });
    for await (const bytes of all) digest.update(bytes);
  } finally {
    await file.close();
  }
  const hex = digest.digest("hex");
  if (hex !== hash.hex) throw new FormatError(`${repository.id}: ${path} has the hash ${hex}, the hub lists ${hash.hex}`, { file: path, value: hex, fix: "what arrived was removed: try again" });
}
