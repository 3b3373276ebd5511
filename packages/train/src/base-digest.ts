/** What identifies the base of a run: its config and a sample of the weights that stay as they came. */
import { node } from "@adjoint/io";
import { quantizedOf } from "@adjoint/quant";
import { ConfigError, Store, type Tensor } from "@adjoint/tensor";
import type { Trainee } from "./trainee.ts";

/** Hashes of a base; a checkpoint's state keeps them as `base`. */
export interface BaseDigest { readonly config: string; readonly weights: string }

/** Keys of config.json that say where it came from and how it is stored. */
const incidental: ReadonlySet<string> = new Set(["_name_or_path", "transformers_version", "architectures", "torch_dtype", "dtype", "use_cache"]);
/** Contents are looked at until this many bytes, the smallest weights first: a GPU hands over whole buffers. */
const MOST = 1 << 29;
/** Pieces of a weight, and their bytes. */
const PIECES = 32, PIECE = 64;

const sorted = (value: unknown): unknown =>
  Array.isArray(value) ? value.map(sorted) : typeof value === "object" && value !== null ? Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)).map(([k, v]) => [k, sorted(v)])) : value;

async function bytesOf(store: Store): Promise<Uint8Array> {
  const { cell } = store, had = cell.host, { data } = await store.host();
  if (had === null && cell.buffer !== null) cell.host = null;      // no second copy of the base stays on the host
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}

async function weightsDigest(weights: Readonly<Record<string, Tensor>>): Promise<string> {
  const hash = node().crypto.createHash("sha256"), names = Object.keys(weights).sort();
  const stores = names.flatMap((name) => { const w = weights[name]; return (w instanceof Store ? [w] : quantizedOf(w)?.stores ?? []).map((store, i) => ({ name: `${name}/${i}`, store })); });
  for (const { name, store } of stores) hash.update(`${name} ${store.dtype} ${store.shape.join("x")}\n`);
  let looked = 0;
  for (const { name, store } of stores.sort((a, b) => a.store.bytes - b.store.bytes || (a.name < b.name ? -1 : 1))) {
    if ((looked += store.bytes) > MOST) break;
    const all = await bytesOf(store), step = Math.max(PIECE, (all.length - PIECE) / (PIECES - 1));
    hash.update(name);
    for (let i = 0; i < PIECES && Math.floor(i * step) < all.length; i++) hash.update(all.subarray(Math.floor(i * step), Math.floor(i * step) + PIECE));
  }
  return hash.digest("hex");
}

const known = new WeakMap<Trainee, Promise<BaseDigest>>();

/** The digest of what a trainee leaves as it came, computed once. Paths have no part in it. */
export function baseDigest(trainee: Trainee): Promise<BaseDigest> {
  const made = known.get(trainee) ?? (async () => {
    const config = Object.entries(trainee.model.config.json).filter(([key]) => !incidental.has(key));
    return { config: node().crypto.createHash("sha256").update(JSON.stringify(sorted(Object.fromEntries(config)))).digest("hex"), weights: await weightsDigest(trainee.frozen ?? {}) };
  })();
  known.set(trainee, made);
  return made;
}

/** Refuses a base that is not the checkpoint's; older checkpoints say nothing about theirs. @throws ConfigError */
export async function checkBase(trainee: Trainee, folder: string, saved: unknown): Promise<void> {
  if (typeof saved !== "object" || saved === null) return;
  const was: Partial<Record<string, unknown>> = { ...saved }, now = await baseDigest(trainee);
  for (const [key, what] of [["config", "another config.json"], ["weights", "other weights"]] as const) {
    if (was[key] === undefined || was[key] === now[key]) continue;
    throw new ConfigError(`${folder}: the base has ${what} than the one that this run began with`, { file: folder, key: "model_name_or_path", value: now[key], fix: "give the model that the run began with: its folder may move, its contents may not change" });
  }
}
