#!/usr/bin/env python3
"""Steps of bitsandbytes' AdamW8bit, for tests/kernels/test_kernel_adamw8.c.

    tools/make_adamw8.py OUT.safetensors [SEED]

Needs torch, safetensors and bitsandbytes.  tests/fixtures/quant/adamw8.safetensors is its output for seed 0.  w.0 are the weights; step k
from 1 on takes the gradient g.k and leaves w.k, the codes m.k and v.k, and the absmax of each 256 elements m_absmax.k and v_absmax.k.
`scalars`: learning rate, beta1, beta2, eps, weight decay.

The optimizer is the package's own on the CPU, with states encoded by its reference operator ("default"), which takes the nearest code
as its GPU kernels do (its C library for CPUs looks them up in a coarser table), and with their rule that m below 0 does not become
0 (csrc/kernels.cu, kOptimizerStatic8bit2StateBlockwise), which the package has for GPUs alone.  Gradients spread over decades, so that codes of every
decade of the maps occur; one block never has any; the last one is short.
"""
import sys

import bitsandbytes as bnb
import bitsandbytes.backends.cpu.ops as cpu_ops
import torch
from safetensors.torch import save_file

N, STEPS, BLOCK = 1500, 5, 256
LR, BETA1, BETA2, EPS, DECAY = 1e-2, 0.9, 0.95, 1e-8, 0.1
REFERENCE = torch._C.DispatchKeySet(torch._C.DispatchKey.CompositeExplicitAutograd)


def encode(x, code, absmax_out, out, blocksize):
    q, absmax = torch.ops.bitsandbytes.quantize_blockwise.default.redispatch(REFERENCE, x, code, blocksize)
    if code.min() < 0:
        q[(x < 0) & (code[q.long()] == 0)] -= 1
    out.copy_(q)
    absmax_out.copy_(absmax)


def main():
    cpu_ops._quant_blockwise_fp32_direct = encode
    torch.manual_seed(int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    p = torch.nn.Parameter(torch.randn(N))
    optimizer = bnb.optim.AdamW8bit([p], lr=LR, betas=(BETA1, BETA2), eps=EPS, weight_decay=DECAY, min_8bit_size=1)
    spread = torch.exp(2.5 * torch.randn(N))
    out = {"w.0": p.data.clone(), "scalars": torch.tensor([LR, BETA1, BETA2, EPS, DECAY])}
    for k in range(1, STEPS + 1):
        p.grad = torch.randn(N) * spread * 1e-3
        p.grad[BLOCK:2 * BLOCK] = 0
        p.grad[torch.rand(N) < 0.05] = 0
        out[f"g.{k}"] = p.grad.clone()
        optimizer.step()
        state = optimizer.state[p]
        assert state["state1"].dtype == torch.uint8
        for name, key in (("m", "state1"), ("v", "state2"), ("m_absmax", "absmax1"), ("v_absmax", "absmax2")):
            out[f"{name}.{k}"] = state[key].clone()
        out[f"w.{k}"] = p.data.clone()
    save_file({k: t.contiguous() for k, t in out.items()}, sys.argv[1], metadata={"format": "pt"})


main()
