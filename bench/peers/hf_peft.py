#!/usr/bin/env python3
"""The same training steps by transformers and PEFT, so that ratios are measured on one machine in one session:

    python3 bench/peers/hf_peft.py --model llama-3-8b --micro 4 [--method lora|full] [--compile] [--checkpoint] [--json]

Random weights in bf16 (adapters, too), rows of one document full of random tokens, every token trained, sdpa attention,
clipping at 1, fused AdamW on bf16 weights without a master copy, which favours this side: otherwise what
`lorac bench --rows full` times.  Prints the median step after warm-up, tokens/s, peak memory of torch's allocator and the time to the first step."""
import argparse
import json
import statistics
import sys
import time

BEGAN = time.monotonic()
import torch  # noqa: E402  (its import is part of the time to the first step)
import transformers  # noqa: E402

SHAPES = {  # vocabulary, width, feed-forward, layers, heads, key/value heads, tied
    "llama-2-7b": (32000, 4096, 11008, 32, 32, 32, False),
    "llama-3-8b": (128256, 4096, 14336, 32, 32, 8, False),
    "llama-3.2-1b": (128256, 2048, 8192, 16, 32, 8, True),
    "tiny": (512, 64, 172, 2, 4, 2, True),
}
ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def build(args, device):
    vocab, width, ffn, layers, heads, kv, tied = SHAPES[args.model]
    config = transformers.LlamaConfig(
        vocab_size=vocab, hidden_size=width, intermediate_size=ffn, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=kv, tie_word_embeddings=tied, max_position_embeddings=max(args.seq, 8192), use_cache=False,
        rope_theta=5e5, attn_implementation="sdpa")
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    torch.set_default_dtype(dtype)
    with torch.device(device):
        model = transformers.LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    if args.method == "lora":
        import peft
        targets = args.targets.split(",") if args.targets else ALL_LINEAR
        model = peft.get_peft_model(model, peft.LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules=targets,
                                                           task_type="CAUSAL_LM"),
                                    autocast_adapter_dtype=False)
    if args.checkpoint:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        if args.method == "lora":
            model.enable_input_require_grads()
    model.train()
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SHAPES, required=True)
    parser.add_argument("--method", choices=("lora", "full"), default="lora")
    parser.add_argument("--targets", help="q_proj,v_proj,...; default: all linears")
    parser.add_argument("--seq", type=int, default=4096)
    parser.add_argument("--micro", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--checkpoint", action="store_true", help="gradient checkpointing: full recompute")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(1)
    model = build(args, device)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=device == "cuda")
    run = torch.compile(model) if args.compile else model
    ids = torch.randint(0, model.config.vocab_size, (args.micro, args.seq), device=device)

    def step():
        began = time.monotonic()
        loss = run(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if device == "cuda":
            torch.cuda.synchronize()
        return time.monotonic() - began, loss.item()

    step()
    first = time.monotonic() - BEGAN
    step()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    times, loss = [], 0.0
    while sum(times) < args.seconds or len(times) < 3:
        seconds, loss = step()
        times.append(seconds)
    median = statistics.median(times)
    tokens = args.micro * args.seq
    row = {
        "what": f"{args.model} {args.method} {args.micro} x {args.seq}" + (", compiled" if args.compile else "")
                + (", checkpointed" if args.checkpoint else "") + (f", {args.targets}" if args.targets else ""),
        "peer": f"transformers {transformers.__version__}, torch {torch.__version__}",
        "device": torch.cuda.get_device_name() if device == "cuda" else "CPU", "step_s": median, "steps": len(times),
        "tokens": tokens, "tokens_per_s": tokens / median, "first_step_s": first, "loss": loss,
        "peak_bytes": torch.cuda.max_memory_allocated() if device == "cuda" else 0,
    }
    if args.json:
        print(json.dumps(row))
    else:
        print(f"{row['what']} by {row['peer']} on {row['device']}\n  step {median:.4f} s, {row['tokens_per_s']:.0f} tokens/s, "
              f"peak {row['peak_bytes'] / 2**30:.2f} GiB, first step after {first:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
