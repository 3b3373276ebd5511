"""PyTorch and PEFT in a process of their own: reads one request a line, answers one JSON line. Runs eager on CUDA."""
import array, json, os, sys, time

try:
    import torch
    if not torch.cuda.is_available():
        raise RuntimeError(f"torch {torch.__version__} finds no CUDA device")
except Exception as e:
    print(json.dumps({"error": f"{type(e).__name__}: {e}"}), flush=True)
    sys.exit(0)

dev = "cuda"
torch.backends.cuda.matmul.allow_tf32 = False
BF16 = "bf16" in sys.argv[1:]


def mapped(f, arrays, smoke):
    shape = (8, 256) if smoke else (1 << 14, 4096)
    x = torch.randn(shape, device=dev)
    return (lambda: f(x)), arrays * 4 * x.numel(), "bytes"


def product(m, n, k, dtype, transposed, smoke):
    m, n, k = (64, 64, 64) if smoke else (m, n, k)
    a = torch.randn(m, k, device=dev, dtype=dtype)
    b = torch.randn((n, k) if transposed else (k, n), device=dev, dtype=dtype)
    return (lambda: a @ (b.T if transposed else b)), 2 * m * n * k, "flops"


def adamw(smoke):
    p = torch.nn.Parameter(torch.randn(4096 if smoke else 1 << 26, device=dev))
    p.grad = torch.randn_like(p)
    opt = torch.optim.AdamW([p], lr=1e-3, fused=True)
    return opt.step, 7 * 4 * p.numel(), "bytes"


def like_ours(model):
    """Fills a base model with the numbers that every system gets: norms 1, biases 0, else the block, repeated; matrices laid out [out, in]."""
    block = torch.tensor(array.array("f", open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "block.f32"), "rb").read()))
    cut = (block.view(torch.int32) & -65536).view(torch.float32)
    for name, p in model.named_parameters():
        if p.dim() < 2:
            p.fill_(0 if name.endswith("bias") else 1)
            continue
        turned = "Conv1D" in type(model.get_submodule(name.rpartition(".")[0])).__name__
        rows, columns = reversed(p.shape) if turned else p.shape
        numbers = (block if name.endswith("wpe.weight") else cut).repeat(-(-p.numel() // block.numel()))[: p.numel()].reshape(rows, columns)
        p.copy_(numbers.T if turned else numbers)


def lora_step(kind, smoke, scale):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig
    if kind == "gpt2":
        cfg = GPT2Config() if not smoke else GPT2Config(n_layer=2, n_embd=64, n_head=2, vocab_size=199, n_positions=64)
        batch, length = (1, 32) if smoke else (max(1, round(8 * scale)), 512)
        cfg.resid_pdrop = cfg.embd_pdrop = cfg.attn_pdrop = 0.0
    else:
        cfg = LlamaConfig(rms_norm_eps=1e-5, rope_theta=500000.0, tie_word_embeddings=True, **(
            dict(vocab_size=199, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2) if smoke else
            dict(vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32, num_key_value_heads=8, max_position_embeddings=8192)))
        batch, length = (1, 32) if smoke else (max(1, round(4 * scale)), 1024)
    base = AutoModelForCausalLM.from_config(cfg)
    with torch.no_grad():
        like_ours(base)
    base = base.to(dev, torch.bfloat16 if BF16 else torch.float32)
    model = get_peft_model(base, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
    opt = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    ids = torch.arange(batch * length, device=dev).mul(7919).remainder(cfg.vocab_size).reshape(batch, length)

    def step():
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        opt.step()
        opt.zero_grad(set_to_none=True)
        return loss
    return step, batch * length, "tokens"


def make(task, smoke, scale):
    F = torch.nn.functional
    w = torch.ones(256 if smoke else 4096, device=dev)
    return {
        "copy": lambda: mapped(lambda x: x + 1, 2, smoke),
        "softmax": lambda: mapped(lambda x: torch.softmax(x, -1), 2, smoke),
        "rms-norm": lambda: mapped(lambda x: F.rms_norm(x, (x.shape[1],), w, 1e-6), 2, smoke),
        "layer-norm": lambda: mapped(lambda x: F.layer_norm(x, (x.shape[1],), w, w), 2, smoke),
        "adamw": lambda: adamw(smoke),
        "gemm-f32": lambda: product(4096, 4096, 4096, torch.float32, False, smoke),
        "gemm-f32-nt": lambda: product(4096, 4096, 4096, torch.float32, True, smoke),
        "gemm-f16": lambda: product(4096, 4096, 4096, torch.float16, True, smoke),
        "lora-down": lambda: product(8192, 16, 2048, torch.float32, True, smoke),
        "lora-dA": lambda: product(16, 2048, 8192, torch.float32, False, smoke),
        "gpt2-lora": lambda: lora_step("gpt2", smoke, scale),
        "llama-lora": lambda: lora_step("llama", smoke, scale),
    }[task]()


def say(x):
    print(json.dumps(x), flush=True)


say({"system": f"torch {torch.__version__}{' bf16' if BF16 else ''}", "adapter": torch.cuda.get_device_name(), "software": False})
kept = None
for line in sys.stdin:
    q = json.loads(line)
    try:
        key = (q["task"], q.get("smoke", False), q.get("scale", 1))
        if kept is None or kept[0] != key:
            kept = None
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            kept = (key, make(*key))
            # the loss of step 1, when B is still zero: the adapter's A is PEFT's own
            first = [float(kept[1][0]())] if kept[1][2] == "tokens" else None
            for _ in range(3):
                kept[1][0]()
            torch.cuda.synchronize()
        run, work, unit = kept[1]
        samples, runs, end = [], 1, time.perf_counter() + q["seconds"]
        while time.perf_counter() < end or len(samples) < 3:
            begun = time.perf_counter()
            for _ in range(runs):
                run()
            torch.cuda.synchronize()
            each = (time.perf_counter() - begun) / runs
            samples.append(1000 * each)
            runs = max(1, min(50, round(0.1 / each)))
        samples.sort()
        say({"task": q["task"], "ms": samples[len(samples) // 2], "work": work, "unit": unit, "bytes": torch.cuda.max_memory_allocated(), **({} if first is None else {"first": first})})
    except Exception as e:  # a task that does not fit or a package that is missing is one line of the table
        kept = None
        say({"task": q["task"], "error": f"{type(e).__name__}: {e}".split("\n")[0]})
