/** The worker of the test page: drives what the message asks for and posts lines, then { verdicts } or { error }. */
import { drive, type Wanted } from "./main.ts";

addEventListener("message", ({ data }: MessageEvent<Wanted>) => {
  drive(data, (line) => { postMessage({ line }); }).then(
    (verdicts) => { postMessage({ verdicts }); },
    (error: unknown) => { postMessage({ error: error instanceof Error ? `${error.message}\n${error.stack ?? ""}` : String(error) }); },
  );
});
