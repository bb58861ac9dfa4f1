#!/usr/bin/env python3
"""Loads a folder that `lorac quantize` wrote with transformers and bitsandbytes, and compares its logits with the plain model's.

    tools/check_quantize.py LORAC PLAIN_FOLDER

Run by hand; needs transformers and bitsandbytes, whose code for CPUs wants widths that are multiples of 256 (`lorac init --config`).  Prints one line a type and fails when a folder does not load as quantised, or when
its logits are further from the plain model's than quantising explains.
"""
import pathlib
import subprocess
import sys
import tempfile

import bitsandbytes as bnb
import torch
from transformers import AutoModelForCausalLM

lorac, plain = sys.argv[1:3]
ids = torch.arange(1, 33)[None] % 60
with torch.no_grad():
    want = AutoModelForCausalLM.from_pretrained(plain, dtype=torch.float32)(ids).logits
failed = 0
for kind, flags, layer, most in (("nf4", [], bnb.nn.Linear4bit, 0.4), ("nf4 single", ["--single"], bnb.nn.Linear4bit, 0.4),
                                 ("nf4 256", ["--block", "256"], bnb.nn.Linear4bit, 0.4),
                                 ("fp4", [], bnb.nn.Linear4bit, 0.5), ("int8", [], bnb.nn.Linear8bitLt, 0.05)):
    with tempfile.TemporaryDirectory() as tmp:
        out = pathlib.Path(tmp) / "out"
        subprocess.run([lorac, "quantize", "--model", plain, "--out", str(out), "--type", kind.split()[0], "--quiet", *flags], check=True)
        model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32, device_map={"": "cpu"})
        n = sum(isinstance(m, layer) for m in model.modules())
        with torch.no_grad():
            got = model(ids).logits.float()
    off = ((got - want).norm() / want.norm()).item()
    ok = n > 0 and n % 7 == 0 and off < most
    failed += not ok
    print(f"{kind:12} {n} quantised layers, logits off by {100 * off:.2f} %{'' if ok else '  <-- FAILED'}")
sys.exit(failed)
