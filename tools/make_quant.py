#!/usr/bin/env python3
"""Quantised tensors as the bitsandbytes package makes them, for tests/kernels/test_kernel_quant.c.

    tools/make_quant.py OUT.safetensors [SEED]

Needs torch, safetensors and bitsandbytes.  tests/fixtures/quant/bitsandbytes.safetensors is its output for seed 0.  A case KIND.WHAT has
the keys of a bitsandbytes checkpoint: KIND.WHAT.weight, KIND.WHAT.weight.absmax, ..., and encodes w.WHAT.  Small ones have
KIND.WHAT.value, what the package decodes in float32.

Weights lie on bfloat16's grid, as checkpoints' do: then the sum of the absmax is exact in float32, in whatever order a library
takes it, and so is the offset of double quantisation.  The 8-bit codes of nested absmax come from the package's reference
operator ("default"), which takes the nearest code as its GPU kernels do; its C library for CPUs looks them up in a coarser table
and is off by one code in about a thousand.
"""
import sys

import bitsandbytes.functional as F
import torch
from safetensors.torch import save_file

SHAPES = [(64, 64), (7, 13), (33, 129), (1, 1000), (130, 128)]
BLOCKS = [32, 128, 256, 512, 1024, 2048, 4096]
REFERENCE = torch._C.DispatchKeySet(torch._C.DispatchKey.CompositeExplicitAutograd)


def encode4(out, name, w, kind, nested, block=64):
    codes, state = F.quantize_4bit(w, quant_type=kind, blocksize=block)
    value = F.dequantize_4bit(codes, state)
    if nested:
        offset = state.absmax.mean()
        dynamic = F.create_dynamic_map()
        q, absmax = torch.ops.bitsandbytes.quantize_blockwise.default.redispatch(
            REFERENCE, state.absmax - offset, dynamic, 256)
        state2 = F.QuantState(absmax=absmax, blocksize=256, code=dynamic, dtype=torch.float32)
        state = F.QuantState(absmax=q, shape=w.shape, dtype=w.dtype, blocksize=block, code=state.code,
                             quant_type=kind, offset=offset, state2=state2)
        value = F.dequantize_4bit(codes, state)
    out[name + ".weight"] = codes
    for key, t in state.as_dict(packed=True).items():
        out[f"{name}.weight.{key}"] = t
    if w.numel() < 1500:
        out[name + ".value"] = value.float()


def main():
    out, path = {}, sys.argv[1]
    torch.manual_seed(int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    for rows, cols in SHAPES:
        w = torch.randn(rows, cols).bfloat16().float()
        out[f"w.{rows}x{cols}"] = w.bfloat16()
        for kind in ("nf4", "fp4"):
            encode4(out, f"{kind}.{rows}x{cols}", w, kind, False)
            encode4(out, f"{kind}-nested.{rows}x{cols}", w, kind, True)
    # zeros, and numbers that are not on bfloat16's grid
    for what, w in (("zeros", torch.zeros(2, 64)), ("fine", torch.randn(20, 70))):
        out["w." + what] = w
        encode4(out, "nf4." + what, w, "nf4", False)
        encode4(out, "fp4." + what, w, "fp4", False)
    for rows, cols in ((5, 70), (16, 64)):
        w = torch.randn(rows, cols)
        what = f"{rows}x{cols}-8"
        out["w." + what] = w
        codes, scb, _ = F.int8_vectorwise_quant(w.half())
        out[f"int8.{what}.weight"], out[f"int8.{what}.SCB"] = codes, scb
        out[f"int8.{what}.value"] = F.int8_vectorwise_dequant(codes, scb)
        scale = w.abs().amax(dim=1) / 448
        codes = (w / scale[:, None]).clamp(-448, 448).to(torch.float8_e4m3fn)
        out[f"fp8.{what}.weight"], out[f"fp8.{what}.weight_scale"] = codes.view(torch.uint8), scale
        out[f"fp8.{what}.value"] = codes.float() * scale[:, None]
    # blocks of other sizes: full ones, and a last one that is short
    w = torch.randn(40, 129).bfloat16().float()
    for block in BLOCKS:
        out[f"w.block-{block}"] = w.bfloat16()
        for kind in ("nf4", "fp4"):
            encode4(out, f"{kind}.block-{block}", w, kind, False, block)
            encode4(out, f"{kind}-nested.block-{block}", w, kind, True, block)
    every = torch.arange(256, dtype=torch.uint8)
    out["fp8.values"] = every.view(torch.float8_e4m3fn).float()
    out["dynamic.signed"] = F.create_dynamic_map(True)
    out["dynamic.unsigned"] = F.create_dynamic_map(False)
    save_file({k: t.clone().contiguous() for k, t in out.items()}, path, metadata={"format": "pt"})


main()
