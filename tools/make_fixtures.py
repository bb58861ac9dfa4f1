#!/usr/bin/env python3
"""Writes tests/fixtures/models/: one small random model per architecture and head width, and what
transformers, PEFT and PyTorch compute from it on the CPU in float32: logits, loss and every gradient of
the first step, 20 steps of full training and of LoRA, dense and packed.

Run by hand where torch, transformers, peft and safetensors are installed.  The same packages give the same bytes.
tests/fixtures/models/README.md says what each file holds.
"""
import argparse
import copy
import json
import math
import pathlib
import random
import shutil

import torch
import torch.nn.functional as F
from peft import LoraConfig as PeftLora
from peft import get_peft_model
from safetensors.torch import save_file
from transformers import (LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, Qwen2Config,
                          Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM)

HYPER = {"lr": 0.002, "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.1, "clip": 1.0, "warmup": 3,
         "schedule": "cosine", "steps": 20}
VOCAB, BOS, EOS = 256, 1, 2
ROWS, ROW_TOKENS = 2, 32      # of a dense step
DOCUMENTS, LONGEST = 6, 40    # of a packed step
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

SHAPE = dict(vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_attention_heads=4, num_key_value_heads=2,
             max_position_embeddings=256, bos_token_id=BOS, eos_token_id=EOS, attn_implementation="eager")
PLAIN = {"rope_type": "default", "rope_theta": 10000.0}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}
ARCHITECTURES = {  # name: config class, model class, what is its own
    "llama2": (LlamaConfig, LlamaForCausalLM, dict(rope_parameters=PLAIN, rms_norm_eps=1e-5, tie_word_embeddings=False)),
    "llama3": (LlamaConfig, LlamaForCausalLM, dict(rope_parameters=LLAMA3, rms_norm_eps=1e-5, tie_word_embeddings=True)),
    "mistral": (MistralConfig, MistralForCausalLM, dict(rope_parameters=PLAIN, rms_norm_eps=1e-5,
                                                        tie_word_embeddings=False, sliding_window=None)),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, dict(rope_parameters={**PLAIN, "rope_theta": 1000000.0}, rms_norm_eps=1e-6,
                                                  tie_word_embeddings=False, use_sliding_window=False)),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, dict(rope_parameters={**PLAIN, "rope_theta": 1000000.0}, rms_norm_eps=1e-6,
                                                  tie_word_embeddings=True, use_sliding_window=False)),
}


def make_model(arch, head_dim):
    config_class, model_class, own = ARCHITECTURES[arch]
    config = config_class(**SHAPE, **own, head_dim=head_dim, num_hidden_layers=2)
    model = model_class(config).float().eval()  # eval: no dropout anywhere; gradients flow all the same
    rng = torch.Generator().manual_seed(sum(map(ord, arch)) * 1000 + head_dim)
    with torch.no_grad():
        # Not transformers' initialisation: a bias of zero or a norm of one would hide that it is left out.
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=rng)
            p.copy_(1 + 0.1 * noise if "norm" in name else 0.1 * noise if p.ndim == 1 else 0.1 * noise)
    return model


def older_config(config):
    """config.json in the spelling of transformers 4."""
    old = {k: v for k, v in config.items() if k not in ("rope_parameters", "dtype", "layer_types")}
    rope = dict(config["rope_parameters"])
    old["rope_theta"] = rope.pop("rope_theta")
    old["torch_dtype"] = "float32"
    old["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    return old


def document(rng, n, untrained):
    ids = [BOS] + [rng.randrange(3, VOCAB) for _ in range(n - 1)]
    return ids, [-100] * untrained + ids[untrained:]


def dense_documents(seed):
    """20 steps of two rows of 32 tokens; a stretch in the middle is trained."""
    rng = random.Random(seed)
    for _ in range(HYPER["steps"] * ROWS):
        ids, labels = document(rng, ROW_TOKENS, rng.randint(2, 12))
        tail = rng.randint(0, 8)
        yield ids, labels[:ROW_TOKENS - tail] + [-100] * tail


def packed_documents(seed):
    """20 steps of six documents of 2 to 40 tokens.  Some are trained from their first token on: it is
    predicted by nothing, least of all by the last token of the document before it."""
    rng = random.Random(seed)
    for i in range(HYPER["steps"] * DOCUMENTS):
        n = 2 if i % 17 == 5 else rng.randint(3, LONGEST)
        yield document(rng, n, 0 if i % 3 == 0 else rng.randint(1, n - 1))


def step_loss(model, documents, dtype=torch.float32):
    """Sum over trained tokens divided by their number, each document run by itself; -> loss, count, logits"""
    total, count, logits = 0.0, 0, []
    for ids, labels in documents:
        out = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
        target = torch.tensor(labels[1:])
        total = total + F.cross_entropy(out[:-1].to(dtype), target, ignore_index=-100, reduction="sum")
        count += int((target != -100).sum())
        logits.append(out)
    return total / count, count, logits


def check_packed_logits(model, documents, logits):
    """The same documents in one row, with a block-diagonal mask and positions that start again."""
    n = sum(len(ids) for ids, _ in documents)
    mask = torch.full((n, n), float("-inf"), dtype=next(model.parameters()).dtype)
    at = 0
    for ids, _ in documents:
        block = slice(at, at + len(ids))
        mask[block, block] = torch.triu(mask[block, block], 1)
        at += len(ids)
    row = torch.tensor([[t for ids, _ in documents for t in ids]])
    positions = torch.tensor([[i for ids, _ in documents for i in range(len(ids))]])
    out = model(input_ids=row, position_ids=positions, attention_mask=mask[None, None], use_cache=False).logits[0]
    error = (out - torch.cat(logits)).abs().max() / out.abs().max()
    assert error < 1e-5, f"packed and separate documents differ by {error:g}"


def learning_rate(step):
    h = HYPER
    if step < h["warmup"]:
        return h["lr"] * step / h["warmup"]
    return h["lr"] * (1 + math.cos(math.pi * (step - h["warmup"]) / (h["steps"] - h["warmup"]))) / 2


def train(model, steps):
    """AdamW as in HYPER on what is trainable, one step per list of documents; -> the log."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW([
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": HYPER["weight_decay"]},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ], lr=HYPER["lr"], betas=tuple(HYPER["betas"]), eps=HYPER["eps"], foreach=False)
    dtype = trained[0].dtype
    log = []
    for s, documents in enumerate(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(s)
        optimizer.zero_grad()
        loss, count, _ = step_loss(model, documents, dtype)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, HYPER["clip"], foreach=False)
        optimizer.step()
        log.append({"step": s + 1, "loss": loss.item(), "grad_norm": norm.item(), "lr": learning_rate(s), "tokens": count})
    return log


def gradients(model, documents):
    model.zero_grad()
    loss, _, logits = step_loss(model, documents)
    loss.backward()
    grads = {f"grad.{n}": p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    return loss.detach(), [x.detach() for x in logits], grads


def save_adapter(model, folder):
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    config["target_modules"] = sorted(config["target_modules"])  # a set: its order changes from run to run
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def write_log(path, log, worst64, **more):
    path.write_text(json.dumps({"hyper": {**HYPER, **more}, "float64_max_loss_difference": worst64, "log": log},
                               indent=1) + "\n")


def write_documents(path, documents):
    with open(path, "w") as f:
        for ids, labels in documents:
            f.write(json.dumps({"input_ids": ids, "labels": labels}, separators=(",", ":")) + "\n")


def by_step(documents, n):
    return [documents[i:i + n] for i in range(0, len(documents), n)]


def make(folder, arch, head_dim):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    base = make_model(arch, head_dim)
    base.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.transformers4.json").write_text(json.dumps(older_config(config), indent=2) + "\n")
    sets = {"": by_step(list(dense_documents(f"{arch} {head_dim} dense")), ROWS),
            "packed_": by_step(list(packed_documents(f"{arch} {head_dim} packed")), DOCUMENTS)}

    def lora(dtype):
        torch.manual_seed(head_dim)
        return get_peft_model(copy.deepcopy(base).to(dtype), PeftLora(
            r=8, lora_alpha=16, lora_dropout=0.0, target_modules=PROJECTIONS, task_type="CAUSAL_LM")).to(dtype)

    save_adapter(lora(torch.float32), folder / "lora_init")
    for prefix, steps in sets.items():
        documents = [d for step in steps for d in step]
        write_documents(folder / ("packed.jsonl" if prefix else "batches.jsonl"), documents)
        loss, logits, grads = gradients(base, steps[0])
        tensors = {"loss": loss.reshape(1), **grads}
        if prefix:
            check_packed_logits(base, steps[0], logits)
            lengths = [0] + [len(ids) for ids, _ in steps[0]]
            tensors["logits"] = torch.cat(logits)
            tensors["input_ids"] = torch.tensor([t for ids, _ in steps[0] for t in ids])
            tensors["labels"] = torch.tensor([t for _, labels in steps[0] for t in labels])
            tensors["positions"] = torch.tensor([i for ids, _ in steps[0] for i in range(len(ids))])
            tensors["cu_seqlens"] = torch.tensor(lengths).cumsum(0)
        else:
            tensors["logits"] = torch.stack(logits)
            tensors["input_ids"] = torch.tensor([ids for ids, _ in steps[0]])
            tensors["labels"] = torch.tensor([labels for _, labels in steps[0]])
        save_file({k: v.contiguous() for k, v in sorted(tensors.items())}, folder / f"{prefix}io.safetensors")

        # The initial adapter of the float64 run is that of the float32 run.
        for name, make_trainable in {"sft": lambda d: copy.deepcopy(base).to(d), "lora": lora}.items():
            model, model64 = make_trainable(torch.float32), make_trainable(torch.float64)
            with torch.no_grad():
                for p, p64 in zip(model.parameters(), model64.parameters()):
                    p64.copy_(p)
            log, log64 = train(model, steps), train(model64, steps)
            worst = max(abs(a["loss"] - b["loss"]) for a, b in zip(log, log64))
            write_log(folder / f"{prefix}{name}.json", log, worst, **({"r": 8, "alpha": 16} if name == "lora" else {}))
            if name == "lora" and not prefix:
                save_adapter(model, folder / "lora_final")
            print(f"{folder.name:12} {prefix + name:12} loss {log[0]['loss']:.4f} -> {log[-1]['loss']:.4f}   "
                  f"float64 differs by {worst:.1e}")
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    root = pathlib.Path(__file__).resolve().parent.parent
    ap.add_argument("--out", type=pathlib.Path, default=root / "tests/fixtures/models")
    ap.add_argument("--only", nargs="*", help="names such as llama3-d64")
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for arch in ARCHITECTURES:
        for head_dim in (64, 128):
            name = f"{arch}-d{head_dim}"
            if not args.only or name in args.only:
                make(args.out / name, arch, head_dim)


if __name__ == "__main__":
    main()
