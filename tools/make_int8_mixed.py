#!/usr/bin/env python3
"""Products as LLM.int8 computes them (Dettmers et al. 2022), for tests/kernels/test_kernel_quant.c.

    tools/make_int8_mixed.py OUT.safetensors

Needs numpy, torch, safetensors and bitsandbytes.  tests/fixtures/quant/int8_mixed.safetensors is its output.  The result is
computed here with numpy, in int64 and float64, from the paper's description; the package's own MatMul8bitLt must agree (its CPU
column multiplies by 6.200124e-05 where 1/127^2 is 6.200012e-05, hence the tolerance; the seed is one without ties between codes).  Cases: outliers in some columns, in none, in
all, one row, a row of zeros, widths that are no multiple of four.
"""
import sys

import bitsandbytes as bnb
import numpy as np
import torch
from safetensors.numpy import save_file

THRESHOLD = 6.0


def encode(w):
    h = w.astype(np.float16).astype(np.float32)
    scb = np.abs(h).max(1)
    return np.rint(h * (np.float32(127) / scb)[:, None]).astype(np.int8), scb


def mixed(x, codes, scb):
    h = x.astype(np.float16).astype(np.float32)
    out = np.abs(h) >= THRESHOLD
    cols = out.any(0)
    most = np.where(out, 0, np.abs(h)).max(1)
    factor = np.divide(np.float32(127), most, out=np.zeros_like(most), where=most > 0)
    q = np.rint(h * factor[:, None])
    q[:, cols] = 0
    y = (q.astype(np.int64) @ codes.astype(np.int64).T) * np.outer(most.astype(np.float64), scb) / 127 ** 2
    w = codes.astype(np.float64) * scb[:, None] / 127
    return y + x[:, cols].astype(np.float64) @ w[:, cols].T


def package(x, codes, scb):
    state = bnb.MatmulLtState()
    state.threshold, state.has_fp16_weights, state.is_training = THRESHOLD, False, False
    state.CB, state.SCB = torch.from_numpy(codes), torch.from_numpy(scb)
    return bnb.matmul(torch.from_numpy(x), torch.from_numpy(codes), state=state).numpy()


def main():
    rng = np.random.default_rng(6)
    out = {}
    for name, (n, rows, cols), outliers in (("some", (7, 24, 64), 3), ("none", (5, 16, 96), 0), ("one", (1, 8, 64), 2),
                                            ("odd", (6, 9, 67), 2), ("all", (4, 8, 32), 32), ("large", (70, 80, 160), 5)):
        x = rng.normal(0, 1, (n, cols)).clip(-5, 5).astype(np.float32)
        at = rng.permutation(cols)[:outliers]
        x[rng.integers(0, n, outliers), at] = rng.choice([-1, 1], outliers) * rng.uniform(6, 40, outliers)
        if name == "none":
            x[2] = 0
        codes, scb = encode(rng.normal(0, 0.05, (rows, cols)).astype(np.float32))
        y = mixed(x, codes, scb)
        if name != "none":  # the package divides by a row of zeros
            off = np.abs(package(x, codes, scb) - y).max() / np.abs(y).max()
            assert off < 1e-4, (name, off)
            print(f"{name}: the package is off by {off:.1e}")
        out.update({f"{name}.x": x, f"{name}.weight": codes, f"{name}.SCB": scb, f"{name}.y": y.astype(np.float32)})
    save_file(out, sys.argv[1])


main()
