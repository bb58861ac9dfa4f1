#!/usr/bin/env python3
"""What PEFT's DoRA computes with dropout, for tests/autograd/test_dora.c.

    tools/make_dora.py OUT.safetensors

Needs torch, safetensors and peft.  tests/fixtures/dora_dropout.safetensors is its output.  PEFT's own module is run, forward and
backward; only its nn.Dropout is replaced by a product with the mask that kernels/kernels.h defines (dropout_draw), which is
computed here in Python.  Cases: two sites of one key, so that each has a mask of its own; with a bias and without.
"""
import sys

import peft
import torch
from peft.tuners.lora import Linear
from safetensors.torch import save_file

N, IN, OUT, RANK, P, KEY = 6, 32, 12, 4, 0.4, 77
SAMPLES, POSITIONS = [100, 100, 100, 101, 102, 102], [0, 1, 2, 0, 0, 1]
M64 = (1 << 64) - 1


def mix(a, b):
    h = a ^ (b + 0x9E3779B97F4A7C15 + (a << 6) + (a >> 2)) & M64
    h ^= h >> 33
    h = h * 0xFF51AFD7ED558CCD & M64
    h ^= h >> 33
    h = h * 0xC4CEB9FE1A85EC53 & M64
    return h ^ h >> 33


def philox(key, high, low):
    c = [low & 0xFFFFFFFF, low >> 32, high & 0xFFFFFFFF, high >> 32]
    k = [key & 0xFFFFFFFF, key >> 32]
    for _ in range(10):
        p, q = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [q >> 32 ^ c[1] ^ k[0], q & 0xFFFFFFFF, p >> 32 ^ c[3] ^ k[1], p & 0xFFFFFFFF]
        k = [k[0] + 0x9E3779B9 & 0xFFFFFFFF, k[1] + 0xBB67AE85 & 0xFFFFFFFF]
    return c


def mask(site):
    key = mix(KEY, site)
    rows = [[(philox(key, s, p << 32 | col >> 2)[col & 3] >> 8) / 16777216 for col in range(IN)]
            for s, p in zip(SAMPLES, POSITIONS)]
    return (torch.tensor(rows) >= P).float() / (1 - P)


class Masked(torch.nn.Module):
    def __init__(self, site):
        super().__init__()
        self.mask = mask(site)

    def forward(self, x):
        return x * self.mask


def run(out, name, site, bias):
    base = torch.nn.Linear(IN, OUT, bias=bias)
    config = peft.LoraConfig(r=RANK, lora_alpha=6, lora_dropout=P, use_dora=True)
    module = Linear(base, "default", config, r=RANK, lora_alpha=6)
    a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
    m = module.lora_magnitude_vector["default"].weight
    with torch.no_grad():
        b.add_(torch.randn_like(b) * 0.3)
        m.mul_(1 + 0.2 * torch.randn_like(m))
    assert isinstance(module.lora_dropout["default"], torch.nn.Dropout)
    module.lora_dropout["default"] = Masked(site)
    module.train()
    x = torch.randn(N, IN, requires_grad=True)
    dy = torch.randn(N, OUT)
    y = module(x)
    y.backward(dy)
    tensors = {"x": x, "w": base.weight, "a": a, "b": b, "m": m, "y": y, "dy": dy, "dx": x.grad, "da": a.grad, "db": b.grad,
               "dm": m.grad}
    if bias:
        tensors["bias"] = base.bias
    for key, t in tensors.items():
        out[f"{name}.{key}"] = t.detach().clone().contiguous()


def main():
    torch.manual_seed(3)
    out = {}
    run(out, "one", 1, True)
    run(out, "two", 2, False)
    save_file(out, sys.argv[1])
    print(f"peft {peft.__version__}, torch {torch.__version__}")


if __name__ == "__main__":
    main()
