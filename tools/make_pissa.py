#!/usr/bin/env python3
"""PEFT's PiSSA initialisation of small layers, for tests/kernels/test_svd.c.

    tools/make_pissa.py OUT.safetensors

Needs torch, safetensors and peft.  tests/fixtures/pissa.safetensors is its output.  A case NAME has NAME.w (out, in), what PEFT makes of it
with rank 4 and alpha 8 (scale 2): NAME.ba = scale * B A and NAME.rest, the base's new weight.  (A and B alone are free in their signs.)
Singular values fall by a fifth each, so that the principal ones are well defined for a randomised decomposition, too.
"""
import sys

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

torch.manual_seed(0)
out = {}
for name, rows, cols in (("wide", 24, 60), ("tall", 60, 24), ("square", 40, 40)):
    n = min(rows, cols)
    u, _ = torch.linalg.qr(torch.randn(rows, n))
    v, _ = torch.linalg.qr(torch.randn(cols, n))
    w = u @ torch.diag(3 * 0.8 ** torch.arange(n)) @ v.T
    model = torch.nn.Sequential(torch.nn.Linear(cols, rows, bias=False))
    model[0].weight.data = w.clone()
    model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=["0"], init_lora_weights="pissa"))
    layer = model.base_model.model[0]
    a, b = layer.lora_A["default"].weight.data, layer.lora_B["default"].weight.data
    out[name + ".w"] = w
    out[name + ".ba"] = layer.scaling["default"] * b @ a
    out[name + ".rest"] = layer.base_layer.weight.data
save_file({k: t.contiguous() for k, t in out.items()}, sys.argv[1], metadata={"format": "pt"})
