/**
 * The promises, in the order of the plan. A row is { line } and one of
 *   test: [file, words in the test's name]    looked up in one run of the suite
 *   command: [program, ...args], expect       run by itself; `expect` is what its output must contain
 * and `slow: true` where it takes more than a minute. A row with neither is printed as missing.
 */
export const rows = [
  // 1, 2: the workspace and the two commands
  { line: "Import directions hold and no cycle of files exists", command: ["scripts/deps.mjs"], expect: "directions hold, no cycle" },
  { line: "Strict types over sources and tests", command: ["npm", "run", "-s", "typecheck"] },
  { line: "Type-aware lint", command: ["npm", "run", "-s", "lint"] },
  { line: "npm test does all set-up itself and ends within 10 minutes on 2 cores", command: ["npm", "test"], expect: "^all passed in .*", slow: true },
  { line: "npm run finetune installs at most 40 MB and takes its first step within 60 s", command: ["scripts/footprint.mjs"], expect: "^footprint: .*", slow: true },
  { line: "The suite also passes on a Node 24 from the npm registry", command: ["scripts/node24.mjs"], expect: "node24: ok.*", slow: true },
  { line: "Packed tarballs carry correct types, install by npm and import", command: ["scripts/pack.mjs"], expect: "pack: all packages.*", slow: true },

  // 3: tensor
  { line: "Every op on the reference backend, by generated laws", test: ["packages/testing/test/reference"] },
  { line: "Fused equals unfused, also on random graphs", test: ["packages/testing/test/reference", "graph"] },
  { line: "Random bits equal the published Threefry vectors, on every backend", test: ["packages/tensor/test/random", "threefry"] },
  { line: "Casts to f16 and bf16 round to nearest even", test: ["packages/tensor/test/dtype"] },
  { line: "Plain loop, scope and compile give the same bits", test: ["packages/autograd/test/engine", "plain loop = scope = compile"] },

  // 4: wasm
  { line: "Every op on the wasm backend, by the same laws", test: ["packages/testing/test/wasm"] },
  { line: "Results are bit-equal for any number of threads", test: ["packages/wasm/test/threads", "same bits with 1, 2 and 3 threads"] },
  { line: "A killed worker or a trapped kernel is an error within 2 s, and the next step works", test: ["packages/wasm/test/threads", "within 2 s"] },
  { line: "Pooled memory does not grow over a run", command: ["scripts/benchmark.mjs", "memory", "--smoke"], expect: "memory: flat in \\d+ of \\d+ loops" },

  // 5: autograd
  { line: "Gradients equal central differences in f64, also at order two", test: ["packages/testing/test/reference", "differences"] },
  { line: "checkpoint: planned peak falls, kernel count rises, gradients are bit-equal", test: ["packages/autograd/test/checkpoint"] },

  // 6: nn, io, models
  { line: "Safetensors: what is written is read, bit for bit", test: ["packages/io/test/safetensors", "parse(serialize(x)) = x"] },
  { line: "Safetensors: files of Python's library, read, and written again byte for byte", test: ["packages/io/test/safetensors", "files of Python's safetensors"] },
  { line: "Shards that transformers wrote are read", test: ["packages/io/test/model-folder", "transformers wrote"] },
  { line: "The Llama's logits and loss equal transformers'", test: ["packages/models/test/load"] },
  { line: "Tokenizer: trained merges equal Python tokenizers'", test: ["packages/models/test/tokenizer", "merges and the vocabulary of Python"] },
  { line: "Hub files are cached, resumed and checked, on a local server", test: ["packages/models/test/hub"] },
  { line: "No network unless an id or URL was given", test: ["packages/models/test/hub", "open no socket"] },
  { line: "Cached logits equal uncached; greedy, temperature, top-k, top-p, seed", test: ["packages/models/test/generate"] },

  // 7: optim
  { line: "Optimizers follow their closed-form trajectory on a quadratic", test: ["packages/optim/test/optimizers", "closed trajectories"] },
  { line: "Optimizers and schedules equal PyTorch's on golden fixtures", test: ["packages/optim/test/schedules", "golden"] },

  // 8: lora
  { line: "LoRA starts as the identity", test: ["packages/lora/test/low-rank", "starts as the identity"] },
  { line: "Merged equals adapter", test: ["packages/lora/test/low-rank", "merged weight"] },
  { line: "Closed-form dA, dB, dX", test: ["packages/lora/test/low-rank", "closed-form gradients"] },
  { line: "The adapter's gradient never computes or allocates dW, and its flops are the closed formula's", test: ["packages/lora/test/low-rank", "never computes dW"] },
  { line: "Targets agree with PEFT's choice", test: ["packages/lora/test/targets", "agrees with PEFT"] },
  { line: "adapter_config.json: PEFT's own files are repeated", test: ["packages/lora/test/config", "repeats PEFT's own file"] },
  { line: "adapter_model.safetensors: the bytes that PEFT wrote", test: ["packages/lora/test/peft", "writes the bytes that PEFT wrote"] },
  { line: "Strict loading with a report of missing and unexpected keys", test: ["packages/lora/test/peft", "reports every missing"] },

  // 9: train
  { line: "Gradient accumulation equals the big batch, weighted by predicted tokens", test: ["packages/train/test/golden", "accumulation is the big batch"] },
  { line: "Exact resume: bit-equal to an uninterrupted run, also with other threads and in mid-accumulation", test: ["packages/train/test/resume"] },
  { line: "Losses, gradient norms and adapters of a run equal PEFT's on golden fixtures", test: ["packages/train/test/golden", "PEFT"] },
  { line: "Ctrl-C saves and says how to resume", test: ["packages/cli/test/commands", "Ctrl-C"] },

  // 11: the bundled model
  { line: "decode(encode(s)) = s for every Unicode string", test: ["packages/models/test/tokenizer-laws", "decode(encode(s)) = s"] },
  { line: "At most 0.5 % of held-out windows occur in training text", test: ["packages/tiny/test/texts", "at most 0.5 %"] },
  { line: "At most 1.42 bits per byte on the test addresses", command: ["npm", "run", "-s", "adjoint", "--", "eval", "--data", "addresses-test", "--json"], expect: "\"bits_per_byte\":1\\.([0-3]\\d*|4[01]\\d*)[,}]" },

  // 12: the command
  { line: "eval --ids prints one JSON object with loss and tokens", test: ["packages/cli/test/commands", "one JSON object"] },
  { line: "finetune --ids writes metrics.jsonl, one line a step", test: ["packages/cli/test/commands", "finetune --ids"] },

  // 13: the main job
  { line: "npm run finetune: new-domain bits per byte down by at least 13 % in under 3 minutes", command: ["scripts/mainjob.mjs"], expect: "^main job: .*", slow: true },

  // speed and memory
  { line: "From the third step on no counter of memory() moves; resident memory after step 1,000 is within 2 MB of step 100; x.add(1) is flat", command: ["scripts/benchmark.mjs", "memory"], expect: "memory: flat in \\d+ of \\d+ loops", slow: true },
  { line: "Small GPT step: 3 times jax-js, 24 times tfjs-wasm, interleaved", command: ["scripts/benchmark.mjs", "speed", "--tasks", "gpt", "--at-least", "gpt:jax-js=3,gpt:tfjs-wasm=24"], expect: "reached +gpt: tfjs-wasm over adjoint.*", slow: true },
  { line: "GEMM 1024 reaches 70 % of the peak of a register-only loop", command: ["scripts/benchmark.mjs", "speed", "--systems", "adjoint", "--tasks", "gemm-1024,peak", "--at-least", "share=0.7"], expect: "reached +gemm-1024.*", slow: true },

  // README and docs
  { line: "Every TypeScript block of README and docs runs, has no type error, and prints what the page says", test: ["benchmarks/test/docs"] },

  // bad input
  { line: "A truncated or corrupt safetensors header is one clear error", test: ["packages/io/test/safetensors", "damage"] },
  { line: "A write that fails at its n-th operation, for every n, leaves no half-written output", test: ["packages/io/test/files", "fails at its n-th operation"] },
  { line: "A bad adapter_config.json names file, key, value and fix", test: ["packages/lora/test/config", "refuses"] },
  { line: "An adapter made for another model is refused", test: ["packages/lora/test/peft", "another model"] },
  { line: "Targets that match nothing are an error with near names", test: ["packages/lora/test/targets", "nothing matches"] },
  { line: "Regular expressions from files take linear time", test: ["packages/lora/test/pattern", "exponential time"] },
  { line: "A tokenizer's expression cannot hang the process", test: ["packages/models/test/tokenizer", "never ends"] },
];
