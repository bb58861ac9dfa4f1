#!/usr/bin/env python3
"""Trains every fixture for 20 steps on a GPU, in fp32 and bf16, and compares the losses with transformers'.

    tools/bundle.sh && . bundle/env.sh && python3 tools/gpu_golden.py [--device cuda|cpu]

On the CPU in fp32 alone.  Fails when an fp32 loss is off by more than 1e-4 or a run's bf16 losses by more than 0.5 % in the mean."""
import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
CONFIG = """
model: {{path: {model}}}
method: {method}
{lora}
data: {{train: {model}/batches.jsonl, format: tokens, packing: off, shuffle: false, max_length: {length}}}
batch: {{global: 2}}
optim: {{lr: {lr}, beta2: 0.95, weight_decay: 0.1, clip: 1.0, schedule: cosine, warmup_steps: 3}}
train: {{max_steps: 20}}
runtime: {{device: {device}, precision: {precision}, memory: 4}} # others may be on the GPU
log: {{tensorboard: false}}
output: {out}
"""


def losses(lorac, device, folder, method, precision, lr, tmp):
    with open(folder / "batches.jsonl", encoding="utf-8") as rows:
        length = len(json.loads(rows.readline())["input_ids"])
    out = tmp / f"{folder.name}-{method}-{precision}"
    config = out.with_suffix(".yaml")
    config.write_text(CONFIG.format(
        model=folder, method="full" if method == "sft" else "lora", length=length, lr=lr, device=device, precision=precision, out=out,
        lora="" if method == "sft" else f"lora: {{adapter: {folder}/lora_init}}"), encoding="utf-8")
    subprocess.run([lorac, "train", "--quiet", config], check=True, timeout=300)
    with open(out / "metrics.jsonl", encoding="utf-8") as lines:
        return [row["loss"] for row in map(json.loads, lines) if "grad_norm" in row]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    device = parser.parse_args().device
    lorac = shutil.which("lorac") or sys.exit("lorac is not on the path: source bundle/env.sh")
    folders = sorted(p.parent for p in (ROOT / "tests/fixtures").glob("*/*/batches.jsonl"))
    failed = 0
    with tempfile.TemporaryDirectory() as tmp:
        for folder in folders:
            for method in "sft", "lora":
                reference = json.loads((folder / f"{method}.json").read_text(encoding="utf-8"))
                want = [step["loss"] for step in reference["log"]]
                for precision in ("fp32", "bf16") if device == "cuda" else ("fp32",):
                    got = losses(lorac, device, folder, method, precision, reference["hyper"]["lr"], pathlib.Path(tmp))
                    off = [abs(g - w) for g, w in zip(got, want, strict=True)]
                    mean = abs(sum(got) - sum(want)) / sum(want)
                    bad = max(off) > 1e-4 if precision == "fp32" else mean > 0.005
                    failed += bad
                    print(f"{folder.name:14s} {method:5s} {precision}  largest difference {max(off):.1e}  mean {mean:.1e}"
                          + ("  FAILED" if bad else ""), flush=True)
    print(f"{len(folders)} fixtures, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
