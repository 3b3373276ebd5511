/** A small Hugging Face hub on this machine: commits, listings, files by range; it can drop connections, refuse, or lie. */
import { createHash } from "node:crypto";
import { createServer } from "node:http";
import type { IncomingMessage, ServerResponse } from "node:http";

export interface FakeHub {
  readonly endpoint: string;
  /** requests seen, as "GET path range" */
  readonly log: string[];
  /** content bytes sent so far */
  readonly sent: () => number;
  readonly behaviour: {
    /** drops the connection after this many bytes of each transfer, this many times */
    dropAfter: number;
    drops: number;
    /** answers to interface questions with this status, this many times */
    status: number;
    failures: number;
    /** sends other bytes than those it lists the hash of */
    corrupt: boolean;
    authorization: Set<string>;
  };
  readonly close: () => Promise<void>;
}

export const COMMIT = "0123456789abcdef0123456789abcdef01234567";

/** Serves the files of one repository, "some-org/some-model". */
export async function fakeHub(files: Readonly<Record<string, Uint8Array>>): Promise<FakeHub> {
  const log: string[] = [];
  let sent = 0;
  const behaviour: FakeHub["behaviour"] = { dropAfter: Infinity, drops: 0, status: 503, failures: 0, corrupt: false, authorization: new Set() };
  const server = createServer((request: IncomingMessage, response: ServerResponse) => {
    const path = decodeURIComponent(new URL(request.url ?? "", "http://host").pathname);
    log.push(`${request.method} ${path} ${request.headers.range ?? ""}`.trim());
    behaviour.authorization.add(request.headers.authorization ?? "");
    const json = (status: number, value: unknown): void => {
      response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(value));
    };
    if (path.startsWith("/api/")) {
      if (behaviour.failures > 0) {
        behaviour.failures--;
        return json(behaviour.status, { error: "in trouble" });
      }
      if (/^\/api\/models\/some-org\/some-model\/revision\/(main|0123456789abcdef0123456789abcdef01234567)$/.test(path)) return json(200, { _id: "1", id: "some-org/some-model", sha: COMMIT, lastModified: "2026-01-01" });
      if (path === `/api/models/some-org/some-model/tree/${COMMIT}`) return json(200, Object.entries(files).map(([name, bytes]) => entry(name, bytes)));
      return json(404, { error: "Repository not found" });
    }
    const name = path.replace(`/some-org/some-model/resolve/${COMMIT}/`, "");
    const bytes = files[name];
    if (bytes === undefined) return json(404, { error: "Entry not found" });
    const [, from, to] = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? "") ?? [undefined, "0", ""];
    const start = Number(from), end = to === "" ? bytes.length : Math.min(Number(to) + 1, bytes.length);
    const body = Buffer.from(bytes.subarray(start, end));
    if (behaviour.corrupt && body.length > 1) body[0] ^= 1;
    response.writeHead(request.headers.range === undefined ? 200 : 206, { etag: '"x"', "content-length": body.length, "content-range": `bytes ${start}-${end - 1}/${bytes.length}` });
    if (body.length > behaviour.dropAfter && behaviour.drops > 0) {
      behaviour.drops--;
      sent += behaviour.dropAfter;
      response.write(body.subarray(0, behaviour.dropAfter), () => setTimeout(() => response.destroy(), 20));
      return;
    }
    sent += body.length;
    response.end(body);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("no port");
  return {
    endpoint: `http://127.0.0.1:${address.port}`, log, sent: () => sent, behaviour,
    close: () => new Promise((resolve) => { server.close(() => resolve()); server.closeAllConnections(); }),
  };
}

/** As the hub lists a file: weights with the SHA-256 of their bytes, others with git's blob hash only. */
function entry(path: string, bytes: Uint8Array): unknown {
  const oid = createHash("sha1").update(`blob ${bytes.length}\0`).update(bytes).digest("hex");
  const common = { type: "file", path, size: bytes.length, oid };
  return path.endsWith(".safetensors") ? { ...common, lfs: { oid: createHash("sha256").update(bytes).digest("hex"), size: bytes.length, pointerSize: 130 } } : common;
}
