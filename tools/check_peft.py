#!/usr/bin/env python3
"""Loads adapters, merged models and saved models of ours with PEFT and transformers, and compares logits; then
merges adapters that PEFT made; then trains with PiSSA, and compares where it begins and what it saves.

    tools/check_peft.py BUILD_OR_BUNDLE

Run by hand with a Python that has torch, transformers and peft; says so and ends with 77 (skipped) without them.
write_for_peft of that folder writes what is loaded, its lorac merges.  LORAC_TEST_BACKEND=cuda lets write_for_peft compute
on the GPU, too, where it trains, LORAC_TEST_PRECISION=bf16 both sides in bf16 (ours merges as ever; PiSSA is left out).
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import warnings

try:
    import peft
    import torch
    import transformers
    from safetensors.torch import load_file
except ImportError as e:
    print(f"skipped: {e}; needs torch, transformers and peft")
    sys.exit(77)

transformers.utils.logging.disable_progress_bar()
BF16 = os.environ.get("LORAC_TEST_PRECISION") == "bf16"
TOLERANCE = 0.05 if BF16 else 1e-5  # of the largest logit; bf16: each side rounds in its own places
FIXTURES = pathlib.Path(__file__).resolve().parent.parent / "tests/fixtures"


def load(folder):
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16 if BF16 else torch.float32, attn_implementation="eager", output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[kind], f"{folder}: {kind}: {info[kind]}"
    return model.eval()


def logits(model, ids):
    with torch.no_grad():
        return model(input_ids=ids).logits.float()


def differs(got, want):
    return ((got - want).abs().max() / want.abs().max()).item()


# Adapters as others may train them: on embedding and head, with bf16 numbers.
THEIRS = {
    "embedding": ("golden/llama2-tiny", dict(target_modules=["embed_tokens", "q_proj"])),
    "head": ("golden/qwen2-tiny", dict(target_modules=["lm_head", "v_proj"], use_rslora=True)),
    "embedding-tied": ("golden/llama3-tiny", dict(target_modules=["embed_tokens"])),
    "head-tied": ("golden/llama3-tiny", dict(target_modules=["lm_head", "down_proj"])),
    "ranks": ("models/qwen3-d64", dict(target_modules="all-linear", rank_pattern={"q_proj": 2, "layers.1.*up_proj": 3},
                                       alpha_pattern={"k_proj": 1.5}, exclude_modules=["o_proj"])),
    "layers": ("models/mistral-d64", dict(target_modules=["q_proj", "gate_proj"], layers_to_transform=[1],
                                          modules_to_save=["lm_head", "norm"])),
    "pattern": ("models/llama2-d64", dict(target_modules=r".*\.[01]\.(?:self_attn|mlp)\..*?(?:up|k)_proj")),
}


def program(folder, *places):
    """In a build folder or in a bundle (tools/bundle.sh)."""
    for place in places:
        if (folder / place).exists():
            return folder / place
    sys.exit(f"{folder}: has no {places[0]}; build first")


def check_theirs(build, out):
    failed = 0
    for name, (base, how) in THEIRS.items():
        torch.manual_seed(1)
        model = peft.get_peft_model(load(FIXTURES / base), peft.LoraConfig(
            r=4, lora_alpha=6, task_type="CAUSAL_LM", **how))
        with torch.no_grad():
            for key, p in model.named_parameters():
                if p.requires_grad:
                    p.add_(torch.randn_like(p) * 0.05)
        model.save_pretrained(out / f"theirs-{name}")
        subprocess.run([program(build, "cli/lorac", "bin/lorac"), "merge", "--quiet", "--model", FIXTURES / base, "--adapter",
                        out / f"theirs-{name}", "--out", out / f"theirs-{name}-merged"], check=True)
        ids = load_file(FIXTURES / base / "io.safetensors")["input_ids"].reshape(-1)[:64].reshape(2, 32)
        d = differs(logits(load(out / f"theirs-{name}-merged"), ids), logits(model.eval(), ids))
        failed += not d <= TOLERANCE
        print(f"{'ok  ' if d <= TOLERANCE else 'FAIL'} theirs, {name:14} merged by us {d:.1e}")
    return failed


# Runs of `lorac train` with lora.init pissa: our `lora`, and what PEFT calls the same.
PISSA_BASE = FIXTURES / "models/llama3-d64"
PISSA = {
    "exact": (dict(pissa_iterations=0, targets="all-linear"), dict(target_modules="all-linear")),
    "drawn": (dict(targets=["q_proj", "v_proj", "up_proj"]), dict(target_modules=["q_proj", "v_proj", "up_proj"])),
    "ranks": (dict(pissa_iterations=0, targets="all-linear", rslora=True, rank_pattern={"q_proj": 8},
                   alpha_pattern={"down_proj": 3}),
              dict(target_modules="all-linear", use_rslora=True, rank_pattern={"q_proj": 8},
                   alpha_pattern={"down_proj": 3})),
}


def train_pissa(build, lora, out):
    """Trains a few steps and returns the last evaluation's loss, that of the model as it was trained: what is left of
    the base, with A and B beside it."""
    config = {"model": {"path": str(PISSA_BASE)},
              "data": {"train": str(PISSA_BASE / "packed.jsonl"), "eval": str(PISSA_BASE / "batches.jsonl"),
                       "format": "tokens", "max_length": 64, "cache": "off", "packing": "off"},
              "batch": {"global": 6, "micro": 2}, "lora": {"init": "pissa", "rank": 4, "alpha": 8, **lora},
              "optim": {"lr": 0.02}, "train": {"max_steps": 12}, "log": {"tensorboard": False},
              "runtime": {"device": os.environ.get("LORAC_TEST_BACKEND", "cpu"), "precision": "fp32",
                          "memory": 4},  # others may be on the GPU
              "output": str(out)}
    path = out.with_suffix(".yaml")
    path.write_text(json.dumps(config))  # JSON is YAML
    subprocess.run([program(build, "cli/lorac", "bin/lorac"), "train", "--quiet", path], check=True,
                   stdout=subprocess.DEVNULL)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line["eval_loss"] for line in lines if "eval_loss" in line][-1]


def mean_loss(model):
    """Over the trained tokens of the evaluation's rows, one row at a time."""
    total, n = 0.0, 0
    for line in (PISSA_BASE / "batches.jsonl").read_text().splitlines():
        row = json.loads(line)
        ids, labels = (torch.tensor([row[key]]) for key in ("input_ids", "labels"))
        scores = logits(model, ids)[:, :-1].reshape(-1, model.config.vocab_size)
        total += torch.nn.functional.cross_entropy(scores, labels[:, 1:].reshape(-1), ignore_index=-100,
                                                   reduction="sum").item()
        n += (labels[:, 1:] != -100).sum().item()
    return total / n


def products(model):
    """scale * B A of every adapted module of a PEFT model."""
    return {name.removeprefix("base_model.model."): module.get_delta_weight("default").detach().float()
            for name, module in model.named_modules() if hasattr(module, "get_delta_weight")}


def begin_products(folder):
    """What our run took out of the base: the folder holds [A; A0] and [B, -B0], of twice the rank."""
    model = peft.PeftModel.from_pretrained(load(PISSA_BASE), folder)
    for module in model.modules():
        if not hasattr(module, "get_delta_weight"):
            continue
        a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
        with torch.no_grad():
            a[:a.shape[0] // 2] = 0
            b[:, b.shape[1] // 2:] *= -1
    return products(model)


def begins_apart(folder, how):
    """How far what our run took out of the base is from what PEFT's pissa takes.  Singular vectors move by a rounding over
    the gap between the last singular value that is taken and the first that is not (Wedin), so the difference counts times
    that gap, of the largest: these bases are random, and their values lie close together."""
    theirs = peft.get_peft_model(load(PISSA_BASE), peft.LoraConfig(
        r=4, lora_alpha=8, task_type="CAUSAL_LM", init_lora_weights="pissa", **how))
    ranks = {name.removeprefix("base_model.model."): module.r["default"]
             for name, module in theirs.named_modules() if hasattr(module, "get_delta_weight")}
    ours, theirs, base = begin_products(folder), products(theirs), load(PISSA_BASE)
    assert ours.keys() == theirs.keys(), ours.keys() ^ theirs.keys()
    worst = 0.0
    for name, r in ranks.items():
        s = torch.linalg.svdvals(base.get_submodule(name).weight.double())
        worst = max(worst, differs(ours[name], theirs[name]) * ((s[r - 1] - s[r]) / s[0]).item())
    return worst


def check_pissa(build, out):
    failed = 0
    for name, (ours, theirs) in PISSA.items():
        folder = out / f"pissa-{name}"
        trained = train_pissa(build, ours, folder)
        subprocess.run([program(build, "tests/gpu/write_for_peft", "bin/write_for_peft"), "--logits", PISSA_BASE, folder],
                       check=True)
        model = peft.PeftModel.from_pretrained(load(PISSA_BASE), folder).eval()
        want = load_file(folder / "logits.safetensors")["logits"]
        ids = load_file(PISSA_BASE / "io.safetensors")["input_ids"].reshape(-1)
        ids = ids[:want.shape[0] * want.shape[1]].reshape(want.shape[:2])
        results = {"adapter": differs(logits(model, ids), want), "loss": abs(mean_loss(model) / trained - 1)}
        assert differs(logits(load(PISSA_BASE), ids), want) > 1e-3, f"{name}: the adapter changes nothing"
        if "pissa_iterations" in ours:  # the drawn decomposition is another one, to be measured by what it keeps (test_svd)
            results["begin"] = begins_apart(folder, theirs)
        ok = all(d <= TOLERANCE for d in results.values())
        failed += not ok
        print(f"{'ok  ' if ok else 'FAIL'} pissa-{name:8}", "  ".join(f"{k} {d:.1e}" for k, d in results.items()))
    return failed


def main():
    build = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "build")
    failed = 0
    with tempfile.TemporaryDirectory() as tmp:
        out = pathlib.Path(tmp)
        listing = subprocess.run([program(build, "tests/gpu/write_for_peft", "bin/write_for_peft"), FIXTURES, out], check=True,
                                 capture_output=True, text=True).stdout
        for kind, name, base in (line.split("\t") for line in listing.splitlines()):
            ids = load_file(FIXTURES / base / "io.safetensors")["input_ids"].reshape(-1)
            want = load_file(out / name / "logits.safetensors")["logits"]
            ids = ids[:want.shape[0] * want.shape[1]].reshape(want.shape[:2])
            results = {}
            if kind == "model":
                results["loaded"] = differs(logits(load(out / name), ids), want)
            else:
                with warnings.catch_warnings(record=True) as told:
                    warnings.simplefilter("always")
                    model = peft.PeftModel.from_pretrained(load(FIXTURES / base), out / name)
                told = [str(w.message) for w in told if "missing" in str(w.message).lower()]
                assert not told, told
                results["adapter"] = differs(logits(model.eval(), ids), want)
                results["merged"] = differs(logits(load(f"{out / name}-merged"), ids), want)
                plain = differs(logits(load(FIXTURES / base), ids), want)
                assert BF16 or plain > 1e-3, f"{name}: the adapter changes nothing"
            ok = all(d <= TOLERANCE for d in results.values())
            failed += not ok
            print(f"{'ok  ' if ok else 'FAIL'} {name:14}", "  ".join(f"{k} {d:.1e}" for k, d in results.items()))
        failed += check_theirs(build, out)
        if not BF16:  # a whole run's roundings are no longer those of the folder alone
            failed += check_pissa(build, out)
    print(f"transformers {transformers.__version__}, peft {peft.__version__}, torch {torch.__version__}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
