/**
 * The promises, in the order of the plan. A row is { line } and one of
 *   test: [file, words in the test's name]    looked up in one run of the suite
 *   command: [program, ...args], expect       run by itself; `expect` is what its output must contain
 * and `slow: true` where it takes more than a minute, `gpu: true` where a machine without a GPU cannot show it, and `look: true`
 * where the command prints a figure that no program compares. A row with neither test nor command is printed as missing.
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

  // optimizers and schedules
  { line: "Every optimizer follows torch, Transformers, PEFT or its formula for 50 steps: 1e-12 in f64, 2e-6 in f32", test: ["packages/optim/test/long", "50 steps in"] },
  { line: "8-bit optimizers: codes within one of bitsandbytes's, step by step", test: ["packages/optim/test/long", "eight bits"] },
  { line: "Every optimizer on LoRA pairs, embeddings and a quantized base: finite, downhill, its state goes through files", test: ["packages/optim/test/every"] },
  { line: "LoRA-Pro's projection identity in all three modes; the Riemannian metric", test: ["packages/optim/test/laws", "LoRA-Pro"] },
  { line: "Master weights and stochastic rounding of half-precision parameters", test: ["packages/optim/test/policies", "half-precision parameters"] },
  { line: "Groups by role, each with its rate, decay and schedule; LoRA+ gives every parameter PEFT's rate and decay", test: ["packages/optim/test/roles"] },
  { line: "Patterns of rates and decays, LoRA+ and every optimizer and schedule from a recipe", test: ["packages/train/test/optimizers"] },
  { line: "Schedules equal Transformers', torch's and ReLoRA's to 1e-12", test: ["packages/optim/test/schedules", "golden"] },
  { line: "Clipping by value, norm, global norm and adaptively; the global norm is added in f64 (WebGPU: within 1e-6)", test: ["packages/optim/test/laws", "clipping"] },
  { line: "A gradient that is not finite is skipped, or stops the run", test: ["packages/optim/test/policies", "nonFinite"] },
  { line: "Averages of weights", test: ["packages/optim/test/policies", "averages of weights"] },
  { line: "resetState: zero, random, by magnitude", test: ["packages/optim/test/policies", "resetState"] },
  { line: "State in torch's layout and in safetensors, restored exactly; another parameter set is reported", test: ["packages/optim/test/state"] },
  { line: "Step count, rate and clip factor never force a read-back", test: ["packages/optim/test/every", "no step reads anything back"] },
  { line: "A group is one kernel a parameter, and threads meet once for all of them", test: ["packages/wasm/test/threads", "run without a meeting in between"] },
  { line: "Updates that read each other's stores are one kernel, in place", test: ["packages/tensor/test/siblings"] },
  { line: "An 8-bit update too is one kernel a leaf, codes and scales in place; one dispatch for all leaves on WebGPU", test: ["packages/optim/test/step", "8-bit"] },
  { line: "8-bit steps on WebGPU: codes, scales and parameters of the CPU", test: ["packages/webgpu/test/eight-bit"] },
  { line: "An update beside a copy of the same bytes (aim: 80 %)", command: ["scripts/benchmark.mjs", "updates"], expect: "^one large matrix: adamw .*", look: true },
  { line: "Bytes of state equal the formula of the specification", test: ["packages/optim/test/every", "bytes a parameter"] },
  { line: "adjoint explain optimizer and schedule: equations, defaults, bytes, source, curves", test: ["packages/cli/test/explain-names"] },
  { line: "Pictures of every optimizer on Rosenbrock and Beale", command: ["scripts/benchmark.mjs", "pictures", "--out", ".cache/pictures"], slow: true, look: true },
  { line: "E14, E19, E7b: findings about optimizers, by rules written before the run", command: ["scripts/benchmark.mjs", "optimizers", "--quick"], slow: true, look: true },
  { line: "Every adapter starts as the base, merges to itself and back bit for bit, has the gradient of differences, is the same on wasm and in its files", test: ["packages/lora/test/laws"] },
  { line: "Adapters on WebGPU: output, gradients and merged weight of the reference", test: ["packages/webgpu/test/adapters"] },
  { line: "DoRA: anchor, closed-form gradients, norm without V, over codes; its gradient writes nothing of W's size", test: ["packages/lora/test/dora"] },
  { line: "Adapters of convolutions and of an LSTM's weights", test: ["packages/lora/test/convolution"] },
  { line: "LoRA and DoRA on an LSTM's weights, by the chain rule", test: ["packages/lora/test/lstm"] },
  { line: "A bias on B", test: ["packages/lora/test/lora-bias"] },
  { line: "PEFT's numbers for DoRA, embeddings, Conv1D and convolutions, forward and backward", test: ["packages/lora/test/layers-golden"] },
  { line: "PiSSA, OLoRA, LoftQ, LoRA-GA, EVA, CorDA, orthogonal, MiCA: their laws", test: ["packages/lora/test/initial.test"] },
  { line: "The same beside PEFT's numbers, and adapters converted to fit the unchanged base", test: ["packages/lora/test/initial-golden"] },
  { line: "AdaLoRA and VeRA: PEFT's forward, importance, budget and masks at every step, files both ways", test: ["packages/lora/test/kinds"] },
  { line: "ReLoRA: merge and start anew, on floats and codes; the sum of updates has a rank above r", test: ["packages/lora/test/relora"] },
  { line: "Every key of an adapter's config from a recipe: layers, token rows, raw parameters, options of initialisations", test: ["packages/train/test/recipe-adapters"] },
  { line: "A ReLoRA run that is cut and resumed equals the one that was not, bit for bit", test: ["packages/train/test/relora"] },
  { line: "Named adapters: switched per call, scaled as data, merged in order and taken out again", test: ["packages/lora/test/many"] },
  { line: "A mixed batch equals each adapter alone, outputs and gradients, and makes no plan for another assignment", test: ["packages/lora/test/rows"] },
  { line: "FLoRA: one multiplicative adapter an example, with gradients in closed form", test: ["packages/lora/test/flora"] },
  { line: "Weighted combination: cat is the sum, svd, linear, ties, dare, magnitude_prune; PEFT's numbers under compat", test: ["packages/lora/test/combine"] },
  { line: "AdaLoRA and VeRA adapters as the plain LoRA that they equal", test: ["packages/lora/test/plain"] },
  { line: "Adapters in and outside of a set know of each other's merges", test: ["packages/lora/test/merged"] },
  { line: "Biases, whole modules, token rows, raw parameters, tied weights beside the targets", test: ["packages/lora/test/extras"] },
  { line: "Nothing below the lowest adapted layer is differentiated", test: ["packages/lora/test/extras", "below the lowest adapted layer"] },
  { line: "PEFT's directories of every kind on tiny Llama, Qwen2 and GPT-2: its numbers, and written again as they were", test: ["packages/lora/test/peft-kinds"] },
  { line: "QR, SVD, low-rank SVD, solve, Sylvester, quantile in f64: laws and torch's numbers", test: ["packages/tensor/test/linalg"] },
  { line: "Convolutions over one and two axes: laws, gradients, torch's numbers", test: ["packages/nn/test/convolution"] },
  { line: "An LSTM: laws, gradients, torch's numbers", test: ["packages/nn/test/lstm"] },
  { line: "Llama 3, Mistral, Qwen2, Qwen3, Gemma, GPT-2: logits, loss and every gradient of transformers'", test: ["packages/models/test/families.test"] },
  { line: "Adapters of PEFT on GPT-2 and on Gemma's scaled embedding: loss and gradients", test: ["packages/models/test/families-peft"] },
  { line: "LoRA r = 8 within 1.15 of the frozen step, DoRA within 1.5 of LoRA, rank 256 over 16 within 1.1 of its products, rank 64 over 4 within 1.2", command: ["scripts/benchmark.mjs", "adapters", "--limits"], expect: "rank 64 over rank 4", slow: true },
  { line: "Bad rates, betas and schedules, Adafactor with two rates: clear errors; unknown names list the known ones", test: ["packages/optim/test/every", "refusals"] },
  { line: "A schedule shorter than its warm-up is refused", test: ["packages/optim/test/schedules", "refusals"] },

  // quantization: in the engine
  { line: "Products over codes equal products over the decoded weight, forward and gradient, bit for bit", test: ["packages/testing/test/codes"] },
  { line: "No plan holds a quantized weight whole, and no gradient reaches codes", test: ["packages/quant/test/weight", "training through a quantized weight"] },
  { line: "The straight-through estimator", test: ["packages/quant/test/fake"] },
  { line: "WebGPU: products decode inside the tile, exactly", test: ["packages/webgpu/test/codes", "bit for bit"] },
  { line: "WebGPU: a QLoRA step is one submit and makes no weight-sized buffer", test: ["packages/webgpu/test/codes-step"] },
  { line: "Products over codes at 80 % of the f32 product's speed", command: ["scripts/benchmark.mjs", "quant", "--at-least", "0.8"], slow: true, look: true },
  { line: "Quantizing beside a copy", command: ["scripts/benchmark.mjs", "codecs"], slow: true, look: true },

  // quantization: numbers and files
  { line: "Codes, scales and values equal bitsandbytes's and gguf-py's, bit for bit", test: ["packages/quant/test/golden"] },
  { line: "The error of every format stays within its closed bound, and q(dq(q(x))) = q(x)", test: ["packages/quant/test/laws", "laws of every format"] },
  { line: "NF4 beats int4 and FP4 on normal data and loses on uniform data; double quantization adds under 0.1 %", test: ["packages/quant/test/laws", "which format wins"] },
  { line: "Checkpoints of bitsandbytes are read, and written again byte for byte", test: ["packages/quant/test/files", "bitsandbytes's files"] },
  { line: "Quantizing while a file streams holds one tensor of it at a time", test: ["packages/quant/test/files", "one tensor of the file at a time"] },
  { line: "A contradicting quant_state, NaN weights, an unknown format: one clear error naming tensor and file", test: ["packages/quant/test/files", "bad input names tensor and file"] },
  { line: "GGUF files of gguf-py are read, and written again byte for byte", test: ["packages/io/test/gguf", "gguf-py's file"] },
  { line: "A truncated or corrupt GGUF is one clear error", test: ["packages/io/test/gguf", "damage"] },
  { line: "QLoRA's loss, logits and gradients of A and B equal those of bitsandbytes and PEFT, on a base that bitsandbytes wrote", test: ["packages/lora/test/qlora", "QLoRA equals bitsandbytes and PEFT"] },
  { line: "Five AdamW steps over such a base equal PEFT's", test: ["packages/train/test/golden", "a base that bitsandbytes quantized"] },
  { line: "Folders of bitsandbytes and GGUF files of the Llama family go out and come back bit for bit", test: ["packages/models/test/quantized", "bit for bit"] },
  { line: "A GGUF file's own tokenizer gives the ids of the tokenizer that it came from, and is written again", test: ["packages/models/test/gguf-tokenizer"] },
  { line: "Merging into codes is refused unless allowed, says what it lost, and goes back bit for bit", test: ["packages/lora/test/qlora", "merging into codes"] },
  { line: "finetune --load-in-4bit: checkpoints hold no base, runs go on, adapters merge three ways", test: ["packages/cli/test/quantized", "finetune --load-in-4bit"] },
  { line: "adjoint memory: the specification's worked numbers; the arena of a step, planned without weights", test: ["packages/train/test/memory"] },
  { line: "Predicted memory of full, LoRA and QLoRA runs is within 10 % of what they hold", command: ["scripts/benchmark.mjs", "predict"], expect: "predict: within 10 % in 5 of 5 cases", slow: true },
  { line: "QLoRA holds at most half of LoRA's bytes where weights dominate (318 M parameters)", command: ["scripts/benchmark.mjs", "predict", "--large"], expect: "at most 0.5 wanted", slow: true },
  { line: "E7: QLoRA's memory, time and loss beside LoRA's; errors and bits per byte of nf4, fp4, int4, int8 by block size", command: ["scripts/benchmark.mjs", "qlora"], expect: "bits per byte of the bundled model", slow: true, look: true },

  // 9: train
  { line: "Gradient accumulation equals the big batch, weighted by predicted tokens", test: ["packages/train/test/golden", "accumulation is the big batch"] },
  { line: "Exact resume: bit-equal to an uninterrupted run, also with other threads and in mid-accumulation", test: ["packages/train/test/resume"] },
  { line: "Losses, gradient norms and adapters of a run equal PEFT's on golden fixtures", test: ["packages/train/test/golden", "PEFT"] },
  { line: "Ctrl-C saves and says how to resume", test: ["packages/cli/test/commands", "Ctrl-C"] },

  { line: "The time of a run is estimated once, after its first steps, and run.json keeps the estimate beside the truth", test: ["packages/train/test/estimate", "tells it once"] },
  { line: "The estimate is exact where tokens cost alike, whatever the first step costs", test: ["packages/train/test/estimate", "law: tokens that cost alike"] },
  { line: "explain --gradient-checkpointing: more kernels and operations, a smaller arena", test: ["packages/cli/test/commands", "gradient checkpointing costs and saves"] },
  { line: "Golden fixtures of transformers come through the one loader of packages/testing", test: ["packages/models/test/load"] },

  // 11: the bundled model
  { line: "decode(encode(s)) = s for every Unicode string", test: ["packages/models/test/tokenizer-laws", "decode(encode(s)) = s"] },
  { line: "At most 0.5 % of held-out windows occur in training text", test: ["packages/tiny/test/texts", "at most 0.5 %"] },
  { line: "At most 1.42 bits per byte on the test addresses", command: ["npm", "run", "-s", "adjoint", "--", "eval", "--data", "addresses-test", "--json"], expect: "\"bits_per_byte\":1\\.([0-3]\\d*|4[01]\\d*)[,}]" },

  // 12: the command
  { line: "eval --ids prints one JSON object with loss and tokens", test: ["packages/cli/test/commands", "one JSON object"] },
  { line: "finetune --ids writes metrics.jsonl, one line a step", test: ["packages/cli/test/commands", "finetune --ids"] },

  // 13: the main job
  { line: "npm run finetune: new-domain bits per byte down by at least 13 % in under 3 minutes", command: ["scripts/mainjob.mjs"], expect: "^main job: .*", slow: true },
  { line: "What full fine-tuning forgot stands beside the measured job, and beside no other run", test: ["packages/cli/test/screen", "beside no other run"] },
  { line: "That figure is the measurement's: same new-domain loss, the best of three learning rates", test: ["packages/cli/test/screen", "those of the measurement"] },
  { line: "Full fine-tuning beside the adapter, measured again", command: ["scripts/benchmark.mjs", "findings"], slow: true, look: true },

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

  // the WebGPU backend, 1: the device
  { line: "WebGPU: a device is asked for the features that kernels use and for the adapter's own limits", test: ["packages/webgpu/test/open", "a device is asked for"] },
  { line: "WebGPU: Dawn's switches of fast and safe mode, and f16 on NVIDIA", test: ["packages/webgpu/test/open", "Dawn's switches"] },
  { line: "WebGPU: an adapter is chosen by number or by a part of its name", test: ["packages/webgpu/test/errors", "an adapter by number"] },
  { line: "WebGPU: a software adapter is said aloud", test: ["packages/webgpu/test/errors", "a software adapter is said aloud"] },
  { line: "WebGPU: Node exits by itself when work is done", test: ["packages/webgpu/test/software", "a process ends by itself"] },
  { line: "WebGPU: a lost device rejects pending work, and the next call opens a new one", test: ["packages/webgpu/test/errors", "pending work is rejected"] },
  { line: "WebGPU: the same on a real implementation", test: ["packages/webgpu/test/software", "a destroyed device is replaced"] },
  { line: "WebGPU: a training run whose device was lost resumes from its last checkpoint", test: ["packages/train/test/lost-device", "the last checkpoint goes on"] },

  // WebGPU, 2: all ops
  { line: "WebGPU: every op, by the same laws as on wasm and the reference", test: ["packages/webgpu/test/conform"] },
  { line: "WebGPU: f16 and bf16 as storage, rounded to nearest even, also where the adapter has no f16", test: ["packages/webgpu/test/kernels", "halves"] },
  { line: "WebGPU: kernels of any shape, strides, dtypes and formulas equal the interpreter", test: ["packages/webgpu/test/kernels", "on a software GPU"] },
  { line: "WebGPU: the embedding's gradient adds rows in order, by sorted segments", test: ["packages/webgpu/test/kernels", "scatter-add adds rows in order"] },
  { line: "WebGPU: a small model's loss, gradients and generation are the reference's", test: ["packages/webgpu/test/model", "grouped heads learns"] },

  // WebGPU, 3: products
  { line: "WebGPU: any product equals plain loops, by any kernel", test: ["packages/webgpu/test/contract", "any product equals plain loops"] },
  { line: "WebGPU: NN, NT, TN and worse layouts without copies", test: ["packages/webgpu/test/contract", "layouts"] },
  { line: "WebGPU: batched products", test: ["packages/webgpu/test/contract", "batches"] },
  { line: "WebGPU: k in parts, for tall-skinny products", test: ["packages/webgpu/test/contract", "parts of k"] },
  { line: "WebGPU: products of few rows, for decoding", test: ["packages/webgpu/test/contract", "few rows"] },
  { line: "WebGPU: half-precision operands, sums in f32", test: ["packages/webgpu/test/contract", "types"] },
  { line: "WebGPU: bias, activation, residual and scale are written by the product's kernel", test: ["packages/webgpu/test/contract", "formulas after the product"] },
  { line: "WebGPU: residual sums are a matmul's epilogue", test: ["packages/tensor/test/epilogue", "written by the matmul"] },
  { line: "WebGPU: x W + (x A) B is one kernel forward, and its gradient four", test: ["packages/testing/test/products", "two contract kernels forward and four backward"] },
  { line: "WebGPU: matrix-unit kernels (padded staging, prefetch), run with the units emulated", test: ["packages/webgpu/test/matrix", "emulated"] },
  { line: "WebGPU: matrix-unit kernels compile for every reported configuration", test: ["packages/webgpu/test/matrix", "every variant, layout and type"] },
  { line: "WebGPU: matrix units that give wrong results are not used, and said aloud", test: ["packages/webgpu/test/tune", "that do not work are not used"] },
  { line: "WebGPU: tile choices are data: measured, saved, read and obeyed", test: ["packages/webgpu/test/tune", "tables are measured, saved, read and obeyed"] },
  { line: "WebGPU: adjoint tune keeps a table that later runs take", test: ["packages/cli/test/devices", "tune keeps a table"] },

  // WebGPU, 4 and 5: attention and large vocabularies
  { line: "WebGPU: attention forward and backward equal the plain composite, heads of 1 to 128", test: ["packages/webgpu/test/attention", "values"] },
  { line: "WebGPU: attention's laws on every draw of shapes, masks and groups", test: ["packages/webgpu/test/conform", "attention"] },
  { line: "WebGPU: attention is the same bit for bit on every run", test: ["packages/webgpu/test/attention", "the same bit for bit"] },
  { line: "WebGPU: masks with structure, through nn's attention, equal the composition", test: ["packages/nn/test/fused-attention", "is the composition"] },
  { line: "Linear and cross-entropy by chunks equal the loss of all logits", test: ["packages/nn/test/linear-cross-entropy", "is the loss of all logits at once"] },
  { line: "No chunk of logits is computed twice, none is kept", test: ["packages/nn/test/linear-cross-entropy", "no chunk of logits twice"] },
  { line: "A large vocabulary's memory stays down in a whole model", test: ["packages/models/test/chunked-loss", "keeps the memory"] },

  // WebGPU, 6: replay
  { line: "WebGPU: a steady-state step is one submit and makes no buffer, bind group, pipeline or read-back (counters of a double)", test: ["packages/webgpu/test/runtime", "a step is one submit"] },
  { line: "WebGPU: the same on a software driver", test: ["packages/webgpu/test/software", "nothing made in its steady state"] },
  { line: "WebGPU: the GPT-2-small LoRA step is one submit, makes nothing, and costs at most 3 ms of host time on Dawn's null device", test: ["benchmarks/test/gpu-step", "is one submit"] },
  { line: "WebGPU: that step takes at most 450 dispatches for 2 x 512 tokens and moves at most 1.5 times the plan's bytes", test: ["benchmarks/test/gpu-step", "at most 450 dispatches"] },
  { line: "WebGPU: per-step numbers belong to their run, with many runs under way", test: ["packages/webgpu/test/runtime", "step numbers are of their run"] },
  { line: "Small answers come by themselves, a step or two late", test: ["packages/tensor/test/async", "a small answer comes by itself"] },
  { line: "At most two steps are in flight", test: ["packages/tensor/test/async", "at most two runs"] },
  { line: "WebGPU: pipelines compile in parallel, and calls that wait for them keep their order", test: ["packages/webgpu/test/runtime", "calls before the pipelines are there"] },
  { line: "WebGPU: equal texts are compiled once, over plans", test: ["packages/webgpu/test/runtime", "equal texts are compiled once"] },
  { line: "WebGPU: a new sequence length compiles nothing: sizes, strides and offsets are not in the text", test: ["packages/webgpu/test/kernels", "sizes, strides and offsets are not in the text"] },
  { line: "WebGPU: nor in attention's text", test: ["packages/webgpu/test/attention", "do not depend on sizes"] },
  { line: "WebGPU: merged dispatches change no meaning", test: ["packages/webgpu/test/merge", "changes no meaning"] },

  // WebGPU, 7: profiling
  { line: "WebGPU: per-kernel GPU times; explain shows WGSL", test: ["packages/webgpu/test/software", "explain shows WGSL"] },
  { line: "WebGPU: explain --profile prints times, rates, share of the roofline and memory by class", command: ["scripts/gpu.mjs", "--", "node", "scripts/adjoint.mjs", "explain", "--model", "fixtures/data/llama/tiny", "--max-length", "16", "--per-device-train-batch-size", "1", "--device", "webgpu", "--profile"], expect: "times of one step: .* measured here" },
  { line: "WebGPU: out of memory says which class holds how much", test: ["packages/webgpu/test/errors", "out of memory says which class"] },

  // WebGPU, 8: tests on a machine without a GPU
  { line: "npm test brings its own software GPU and says on which adapter WebGPU tests ran", command: ["npm", "test", "--", "packages/webgpu/test/open"], expect: "WebGPU tests run on .*" },
  { line: "Every kernel text compiles on Dawn's null device, with and without f16 and subgroups", test: ["packages/webgpu/test/kernels", "every text compiles"] },
  { line: "Merged texts of every op compile", test: ["packages/webgpu/test/merge", "every text that the ops of the table become"] },
  { line: "The suite and a LoRA fine-tuning in a headless Chromium, with and without isolation", command: ["scripts/test-all.mjs", "chromium"], expect: "^ok +chromium.*", slow: true },
  { line: "The suite and a LoRA fine-tuning on Deno's wgpu and Naga", command: ["scripts/test-all.mjs", "deno"], expect: "^ok +deno.*", slow: true },
  { line: "The WebGPU tests on lavapipe, with f16", command: ["scripts/test-all.mjs", "lavapipe"], expect: "^ok +lavapipe.*", slow: true },
  { line: "The long form; GPU and CPU training curves within 1e-3 over 50 steps of the bundled model", command: ["scripts/test-all.mjs", "long form"], expect: "^ok +long form.*", slow: true },
  { line: "A double of WebGPU tests caching and lifetimes", test: ["packages/webgpu/test/runtime"] },
  { line: "A double of WebGPU tests errors", test: ["packages/webgpu/test/errors"] },
  { line: "npm run test:all: browser, page, Deno, lavapipe, tarballs, Node 24 and the long form, in 25 minutes more", command: ["npm", "run", "-s", "test:all"], expect: "^all passed in .*", slow: true },

  // WebGPU, 9 and 10: the page and the command
  { line: "A page built by Vite fine-tunes on a dropped text, on both devices, is stopped, and works without isolation", command: ["scripts/test-all.mjs", "page"], expect: "^ok +page.*", slow: true },
  { line: "A training loop with for await ends at an AbortSignal", test: ["packages/train/test/turns", "an abort from a timer"] },
  { line: "Models load from addresses, Blobs and bytes, as pages have them", test: ["packages/models/test/files", "bytes, Blobs and the folder"] },
  { line: "--device webgpu: eval gives transformers' loss", test: ["packages/cli/test/devices", "eval gives transformers' loss"] },
  { line: "--device webgpu: finetune follows the CPU's run within 1e-3", test: ["packages/cli/test/devices", "finetune follows the CPU's run"] },
  { line: "--device auto never picks a software adapter", test: ["packages/cli/test/devices", "auto never takes a program"] },
  { line: "adjoint doctor has a cure for everything that is missing", test: ["packages/cli/test/devices", "doctor says"] },

  // WebGPU, speed: measured on an NVIDIA GPU, and nowhere else
  { line: "On a GPU: f32 and f16 products of 4096 beside PyTorch (aims: 45 % of the f32 peak; f16 at 4 times our f32)", command: ["scripts/benchmark.mjs", "gpu", "--tasks", "gemm-f32,gemm-f32-nt,gemm-f16"], expect: "^gemm-f32 .*", slow: true, gpu: true, look: true },
  { line: "On a GPU: AdamW, norms and softmax at 80 % of the copy bandwidth", command: ["scripts/benchmark.mjs", "gpu", "--tasks", "copy,softmax,rms-norm,layer-norm,adamw", "--systems", "adjoint"], expect: "(^(softmax|rms-norm|layer-norm|adamw) +([89]\\d|\\d{3}) % of the copy bandwidth\\s*){4}", slow: true, gpu: true },
  { line: "On a GPU: LoRA steps of GPT-2 small and of a 1B Llama at half of PyTorch's bf16 throughput", command: ["scripts/benchmark.mjs", "gpu", "--tasks", "gpt2-lora,llama-lora", "--systems", "adjoint-f16,torch-bf16", "--at-least", "gpt2-lora:torch-bf16=0.5,llama-lora:torch-bf16=0.5"], expect: "(^reached .*\\s*){2}", slow: true, gpu: true },
  { line: "On a GPU: which kernels those steps spend their time in, and their memory beside PyTorch's", command: ["scripts/benchmark.mjs", "gpu", "--tasks", "gpt2-lora,llama-lora", "--systems", "adjoint,adjoint-f16,torch,torch-bf16", "--profile"], expect: "^Device memory\\n.*\\n(gpt2|llama)-lora .*", slow: true, gpu: true, look: true },
  { line: "On a GPU: LoRA steps 3 times as fast as any WebGPU rival that runs there (jax-js, tfjs-webgpu; torchlette is not in the npm registry)", command: ["scripts/benchmark.mjs", "gpu", "--tasks", "gemm-f32,gpt2-lora,llama-lora", "--systems", "adjoint,jax-js,tfjs-webgpu,torchlette", "--at-least", "gpt2-lora:jax-js=3,gpt2-lora:tfjs-webgpu=3,llama-lora:jax-js=3,llama-lora:tfjs-webgpu=3"], expect: "(^(reached|not compared) .*\\s*){4}", slow: true, gpu: true },
  { line: "The WebGPU rivals run beside ours on a software adapter, and do the same work", command: ["scripts/gpu.mjs", "--", "node", "scripts/benchmark.mjs", "gpu", "--smoke", "--rounds", "1", "--seconds", "0.1", "--tasks", "gemm-f32,gpt2-lora,llama-lora", "--systems", "adjoint,jax-js,tfjs-webgpu,torchlette"], expect: "(^(gpt2|llama)-lora .* \\(adjoint\\); jax-js (equal|within \\S+); tfjs-webgpu (equal|within \\S+)\\s*){2}", slow: true },
  { line: "A rival that is missing, refuses, dies or hangs is a line of the table with its reason", test: ["benchmarks/test/gpu-report", "a line, never a crash"] },
  { line: "Rivals start from our numbers", test: ["benchmarks/test/gpu-report", "rivals get our numbers"] },
  { line: "The GPU benchmark is ready: every task of ours runs on a software adapter", command: ["scripts/gpu.mjs", "--", "node", "scripts/benchmark.mjs", "gpu", "--smoke", "--rounds", "1", "--seconds", "0.1", "--systems", "adjoint"], expect: "^llama-lora +[\\d.]+ tok/s", slow: true },
  { line: "The README prints no GPU figure that was not measured", test: ["benchmarks/test/docs", "no GPU figure that was not measured"] },

  // WebGPU, bad input
  { line: "WebGPU: no adapter, no device, a refused device", test: ["packages/webgpu/test/errors", "no adapter, no device"] },
  { line: "WebGPU: kernels that want more bindings than an adapter has are cut", test: ["packages/webgpu/test/kernels", "more buffers than a dispatch may bind"] },
  { line: "WebGPU: a buffer over the binding limit is named", test: ["packages/webgpu/test/errors", "over the binding limit is named"] },
  { line: "WebGPU: out of memory, before anything runs", test: ["packages/webgpu/test/software", "says when memory ends"] },
  { line: "WebGPU: a WGSL error names kernel, line and message", test: ["packages/webgpu/test/software", "a WGSL mistake"] },
  { line: "WebGPU: work after close() is refused, what waits is rejected", test: ["packages/webgpu/test/errors", "what waits is rejected, what comes is refused"] },
  { line: "WebGPU: a device lost while pipelines compile is an error, and nothing hangs", test: ["packages/webgpu/test/errors", "lost while pipelines compile"] },
  { line: "A device that does not exist is refused with those that do", test: ["packages/cli/test/devices", "refused with those that do"] },
];
