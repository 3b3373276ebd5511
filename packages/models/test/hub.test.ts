/** Hub ids against a hub on this machine: cut connections, resumed downloads, wrong bytes, full disks, and no socket for a folder. */
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import net from "node:net";
import { tmpdir } from "node:os";
import { join, relative, sep } from "node:path";
import { pathToFileURL } from "node:url";
import { ConfigError } from "@adjoint/tensor";
import { FileError, openModelFolder, serializeSafetensors, withFileSystem } from "@adjoint/io";
import { failingFileSystem } from "@adjoint/io/failing";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { resolveModel } from "../src/hub.ts";
import type { DownloadProgress } from "../src/hub.ts";
import { COMMIT, fakeHub } from "./hub-server.ts";
import type { FakeHub } from "./hub-server.ts";

const ID = "some-org/some-model";
const text = (value: unknown): Uint8Array => new TextEncoder().encode(JSON.stringify(value));
const weights = (name: string, n: number): Uint8Array => serializeSafetensors({ [name]: { dtype: "f32", shape: [n], data: Float32Array.from({ length: n }, (_, i) => i) } }, { format: "pt" });
const single: Record<string, Uint8Array> = { "README.md": text("not needed"), "config.json": text({ model_type: "llama" }), "model.safetensors": weights("a", 100_000), "pytorch_model.bin": text("not needed"), "tokenizer.json": text({}) };
const sharded: Record<string, Uint8Array> = {
  "config.json": text({}), "consolidated.safetensors": weights("not-needed", 4),
  "model-1.safetensors": weights("a", 1000), "model-2.safetensors": weights("b", 1000),
  "model.safetensors.index.json": text({ weight_map: { a: "model-1.safetensors", b: "model-2.safetensors" } }),
};

let cacheDir: string;
let hub: FakeHub;
const quick = { retryDelay: 1 };
const transfers = (): string[] => hub.log.filter((line) => line.includes("/resolve/") && !line.endsWith("bytes=0-0"));

const hasBytes = async (path: string, bytes: Uint8Array): Promise<boolean> => (await readFile(path)).equals(bytes);

async function tree(dir: string): Promise<string[]> {
  const entries = await readdir(dir, { recursive: true, withFileTypes: true });
  return entries.filter((entry) => entry.isFile()).map((entry) => relative(dir, join(entry.parentPath, entry.name)).split(sep).join("/")).sort();
}

beforeEach(async () => {
  for (const key of ["HF_ENDPOINT", "HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE"]) vi.stubEnv(key, undefined);
  cacheDir = await mkdtemp(join(tmpdir(), "adjoint-hub-"));
  hub = await fakeHub(single);
});
afterEach(async () => {
  vi.unstubAllEnvs();
  await hub.close();
  await rm(cacheDir, { recursive: true, force: true });
});

describe("a hub id", () => {
  it("is downloaded once, without what a model does not need, and opened", async () => {
    const seen: DownloadProgress[] = [];
    const folder = await resolveModel(ID, { cacheDir, endpoint: hub.endpoint, onProgress: (progress) => seen.push(progress) });
    expect(await tree(cacheDir)).toEqual([
      `models--some-org--some-model/.adjoint/${COMMIT}.json`, "models--some-org--some-model/refs/main",
      ...["config.json", "model.safetensors", "tokenizer.json"].map((name) => `models--some-org--some-model/snapshots/${COMMIT}/${name}`),
    ]);
    for (const name of ["config.json", "model.safetensors", "tokenizer.json"]) expect(await hasBytes(join(folder, name), single[name])).toBe(true);
    const model = await openModelFolder(folder);
    expect((await model.read("a")).data).toHaveLength(100_000);
    await model.close();
    const size = single["config.json"].length + single["model.safetensors"].length + single["tokenizer.json"].length;
    expect(seen.at(-1)).toMatchObject({ bytes: size, size });
    expect(seen.map((progress) => progress.bytes)).toEqual(seen.map((progress) => progress.bytes).sort((a, b) => a - b));
    const before = hub.log.length;
    expect(await resolveModel(ID, { cacheDir, endpoint: hub.endpoint })).toBe(folder);
    expect(hub.log.slice(before)).toEqual([`GET /api/models/${ID}/revision/main`]);
    expect(await resolveModel(ID, { cacheDir, endpoint: hub.endpoint, revision: COMMIT })).toBe(folder);
    expect(hub.log.length).toBe(before + 1); // a commit does not change: no question at all
  });

  it("with shards: the index decides which files come", async () => {
    await hub.close();
    hub = await fakeHub(sharded);
    const folder = await resolveModel(ID, { cacheDir, endpoint: hub.endpoint });
    expect((await readdir(folder)).sort()).toEqual(["config.json", "model-1.safetensors", "model-2.safetensors", "model.safetensors.index.json"]);
    expect(transfers().filter((line) => line.includes("index")).length).toBe(1);
    const model = await openModelFolder(folder);
    expect([...model.entries.keys()]).toEqual(["a", "b"]);
    await model.close();
  });

  it("takes the endpoint from HF_ENDPOINT and from an address, the revision from an address", async () => {
    vi.stubEnv("HF_ENDPOINT", `${hub.endpoint}/`);
    const folder = await resolveModel(ID, { cacheDir });
    vi.stubEnv("HF_ENDPOINT", undefined);
    expect(await resolveModel(`${hub.endpoint}/${ID}/tree/${COMMIT}`, { cacheDir })).toBe(folder);
    expect(await resolveModel(new URL(`${hub.endpoint}/${ID}`), { cacheDir })).toBe(folder);
  });

  it("HF_TOKEN goes to the usual hub only, never to an address that was named", async () => {
    vi.stubEnv("HF_TOKEN", "hf_secret");
    await resolveModel(`${hub.endpoint}/${ID}`, { cacheDir });
    expect([...hub.behaviour.authorization]).toEqual([""]);
    hub.behaviour.authorization.clear();
    vi.stubEnv("HF_ENDPOINT", hub.endpoint);
    await resolveModel(ID, { cacheDir: join(cacheDir, "other") });
    expect([...hub.behaviour.authorization]).toEqual(["Bearer hf_secret"]);
  });
});

describe("a connection that breaks off", () => {
  it("in mid-file is taken up again within the call, without a byte twice", async () => {
    Object.assign(hub.behaviour, { dropAfter: 70_000, drops: 5 });
    const folder = await resolveModel(ID, { cacheDir, endpoint: hub.endpoint, ...quick, retries: 1 });
    expect(await hasBytes(join(folder, "model.safetensors"), single["model.safetensors"])).toBe(true);
    const ranges = transfers().filter((line) => line.includes("model.safetensors"));
    expect(ranges.length).toBe(6);
    expect(hub.sent()).toBeLessThan(400_000 + 70_000); // once over, and what was in flight
  });

  it("in mid-file is taken up by the next call; what came stays", async () => {
    Object.assign(hub.behaviour, { dropAfter: 150_000, drops: 1 });
    const failed = resolveModel(ID, { cacheDir, endpoint: hub.endpoint, retries: 0 });
    await expect(failed).rejects.toThrow(FileError);
    await expect(failed).rejects.toThrow(/some-org\/some-model: the download of model\.safetensors broke off at byte \d+ of \d+[^]*fix: run the same command again/);
    const snapshot = join(cacheDir, "models--some-org--some-model", "snapshots", COMMIT);
    expect((await readdir(snapshot)).sort()).toEqual(["config.json", "model.safetensors.incomplete", "tokenizer.json"]);
    const kept = await readFile(join(snapshot, "model.safetensors.incomplete"));
    expect(kept.length).toBeGreaterThan(0);
    const before = hub.sent();
    const folder = await resolveModel(ID, { cacheDir, endpoint: hub.endpoint });
    expect(await hasBytes(join(folder, "model.safetensors"), single["model.safetensors"])).toBe(true);
    expect(transfers().at(-1)).toBe(`GET /${ID}/resolve/${COMMIT}/model.safetensors bytes=${kept.length}-${single["model.safetensors"].length - 1}`);
    expect(hub.sent() - before).toBeLessThan(single["model.safetensors"].length - kept.length + 10);
    expect((await readdir(snapshot)).sort()).toEqual(["config.json", "model.safetensors", "tokenizer.json"]);
  });

  it("by the user (signal) ends at once and stays resumable", async () => {
    const controller = new AbortController();
    const onProgress = ({ file, fileBytes }: DownloadProgress): void => { if (file === "model.safetensors" && fileBytes > 0) controller.abort(); };
    await expect(resolveModel(ID, { cacheDir, endpoint: hub.endpoint, onProgress, signal: controller.signal })).rejects.toMatchObject({ name: "AbortError" });
    await resolveModel(ID, { cacheDir, endpoint: hub.endpoint });
    expect(transfers().at(-1)).toMatch(/bytes=[1-9]\d*-/);
  });

  it("a hub in trouble is asked again; one that stays away gives way to the cache, or is told", async () => {
    hub.behaviour.failures = 3;
    const folder = await resolveModel(ID, { cacheDir, endpoint: hub.endpoint, ...quick });
    hub.behaviour.failures = 1000;
    expect(await resolveModel(ID, { cacheDir, endpoint: hub.endpoint, ...quick, retries: 1 })).toBe(folder);
    await expect(resolveModel(ID, { cacheDir: join(cacheDir, "empty"), endpoint: hub.endpoint, ...quick, retries: 1 })).rejects.toThrow(/cannot be reached[^]*fix: check the connection/);
    hub.behaviour.failures = 0;
    vi.stubEnv("HF_HUB_OFFLINE", "1");
    const asked = hub.log.length;
    expect(await resolveModel(ID, { cacheDir, endpoint: hub.endpoint })).toBe(folder);
    await rm(join(folder, "tokenizer.json"));
    await expect(resolveModel(ID, { cacheDir, endpoint: hub.endpoint })).rejects.toThrow(/not in the cache.*HF_HUB_OFFLINE/);
    expect(hub.log.length).toBe(asked);
    vi.stubEnv("HF_HUB_OFFLINE", undefined);
    await resolveModel(ID, { cacheDir, endpoint: hub.endpoint }); // only what is gone comes again
    expect(transfers().slice(-1)).toEqual([`GET /${ID}/resolve/${COMMIT}/tokenizer.json`]);
  });
});

describe("refusals", () => {
  it("wrong bytes are found by their hash, removed, and right the next time", async () => {
    hub.behaviour.corrupt = true;
    await expect(resolveModel(ID, { cacheDir, endpoint: hub.endpoint, ...quick })).rejects.toMatchObject({ name: "FormatError", message: expect.stringMatching(/config\.json has the hash/) });
    expect((await tree(cacheDir)).filter((path) => path.includes("snapshots"))).toEqual([]);
    hub.behaviour.corrupt = false;
    await resolveModel(ID, { cacheDir, endpoint: hub.endpoint });
  });

  it("a full disk at any write leaves nothing that counts as complete, and the next call ends the work", async () => {
    let failures = 0;
    for (let n = 0; ; n++) {
      const dir = join(cacheDir, String(n));
      const disk = failingFileSystem(n);
      try {
        await withFileSystem(disk, () => resolveModel(ID, { cacheDir: dir, endpoint: hub.endpoint, ...quick, retries: 0 }));
        expect(disk.operations()).toBeLessThanOrEqual(n);
        break;
      } catch (error) {
        failures++;
        expect(error).toBeInstanceOf(FileError);
        expect(error).toMatchObject({ message: expect.stringContaining("the disk is full") });
      }
      const folder = await resolveModel(ID, { cacheDir: dir, endpoint: hub.endpoint });
      expect(await hasBytes(join(folder, "model.safetensors"), single["model.safetensors"])).toBe(true);
      await rm(dir, { recursive: true });
    }
    expect(failures).toBeGreaterThan(15);
  });

  it("unknown models and repositories without safetensors are told by id, with the fix", async () => {
    await expect(resolveModel("some-org/other", { cacheDir, endpoint: hub.endpoint, ...quick })).rejects.toThrow(/some-org\/other: http.* has no such model at revision "main"[^]*fix: .*HF_TOKEN/);
    await hub.close();
    hub = await fakeHub({ "config.json": text({}), "pytorch_model.bin": text("") });
    await expect(resolveModel(ID, { cacheDir, endpoint: hub.endpoint })).rejects.toThrow(/has no model\.safetensors[^]*safetensors weights/);
    await hub.close();
    hub = await fakeHub({ "config.json": text({}), "model.safetensors.index.json": sharded["model.safetensors.index.json"] });
    await expect(resolveModel(ID, { cacheDir, endpoint: hub.endpoint })).rejects.toThrow(/the index names model-1\.safetensors, which is not there/);
  });

  it.each(["../main", "a/../b", "", "-x", "a b"])("the revision %j is refused before any question", async (revision) => {
    await expect(resolveModel(ID, { cacheDir, endpoint: hub.endpoint, revision })).rejects.toThrow(ConfigError);
    expect(hub.log).toEqual([]);
  });

  it.each([["ftp://x/a/b", FileError], ["http://", ConfigError], ["https://huggingface.co/only", ConfigError], ["https://huggingface.co/datasets/a/b", ConfigError]] as const)("%s is no model", async (name, kind) => {
    await expect(resolveModel(name, { cacheDir })).rejects.toThrow(kind);
  });

  it("an endpoint that is no address is a ConfigError", async () => {
    await expect(resolveModel(ID, { cacheDir, endpoint: "huggingface.co" })).rejects.toMatchObject({ name: "ConfigError", details: { key: "endpoint" } });
  });
});

describe("no network", () => {
  it("a folder, a misspelt folder and a file open no socket; an id does", async () => {
    const connect = vi.spyOn(net.Socket.prototype, "connect").mockImplementation(() => { throw new Error("a socket was opened"); });
    try {
      const folder = join(cacheDir, "org", "model");
      await mkdir(folder, { recursive: true });
      await writeFile(join(folder, "config.json"), "{}");
      expect(await resolveModel(folder)).toBe(folder);
      expect(await resolveModel(`${folder}${sep}`)).toBe(folder);
      expect(await resolveModel(pathToFileURL(folder))).toBe(folder);
      expect(await resolveModel(pathToFileURL(folder).href, { revision: "main" })).toBe(folder);
      expect(await resolveModel(relative(process.cwd(), folder))).toBe(folder);
      await expect(resolveModel(folder, { revision: "v2" })).rejects.toMatchObject({ name: "ConfigError", details: { key: "revision", value: "v2" } });
      for (const typo of ["./org/model", `${folder}x`, "model", "../a/b", "a/b/c", "~/a", "a\\b", "C:/a"]) await expect(resolveModel(typo)).rejects.toMatchObject({ name: "FileError", message: expect.stringContaining("no such folder") });
      await expect(resolveModel(join(folder, "config.json"))).rejects.toThrow(/is a file/);
      expect(connect).not.toHaveBeenCalled();
      await expect(resolveModel(ID, { cacheDir, endpoint: hub.endpoint, retries: 0 })).rejects.toThrow(/cannot be reached \(.*a socket was opened/);
      expect(connect).toHaveBeenCalled();
    } finally {
      connect.mockRestore();
    }
  });
});
