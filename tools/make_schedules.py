#!/usr/bin/env python3
"""Writes tests/fixtures/schedules.tsv: learning-rate factors as transformers' get_*_schedule computes them.
Needs transformers and torch; run by hand:  tools/make_schedules.py > tests/fixtures/schedules.tsv"""
import torch
from transformers import optimization as o

CASES = [(kind, warmup, total, ratio) for kind in ("constant", "linear", "cosine", "cosine_min", "inverse_sqrt")
         for warmup in (0, 3, 10) for total in (20, 57) for ratio in (0.0,)]
CASES = [c for c in CASES if c[0] != "cosine_min"] + [("cosine", w, t, r) for w in (0, 3) for t in (20, 57) for r in (0.1, 0.5)]


def lambdas(kind, warmup, total, ratio):
    opt = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    if kind == "constant":
        s = o.get_constant_schedule_with_warmup(opt, warmup)
    elif kind == "linear":
        s = o.get_linear_schedule_with_warmup(opt, warmup, total)
    elif kind == "cosine" and ratio == 0:
        s = o.get_cosine_schedule_with_warmup(opt, warmup, total)
    elif kind == "cosine":
        s = o.get_cosine_with_min_lr_schedule_with_warmup(opt, warmup, total, min_lr_rate=ratio)
    elif kind == "inverse_sqrt":
        s = o.get_inverse_sqrt_schedule(opt, warmup)
    return s.lr_lambdas[0]


def row(*items):
    print("\t".join(str(i) for i in items))


print("# kind\twarmup\ttotal\tmin_ratio\tdecay_steps\tdecay\tstep\tfactor (transformers)")
for kind, warmup, total, ratio in CASES:
    f = lambdas(kind, warmup, total, ratio)
    for s in list(range(0, total, 3)) + [total - 1, total]:
        row(kind, warmup, total, ratio, 0, "-", s, repr(float(f(s))))
for shape in ("cosine", "linear", "1-sqrt"):
    for warmup, total, decay, ratio in ((0, 20, 5, 0.0), (4, 40, 12, 0.0), (0, 40, 12, 0.1), (4, 40, 12, 0.5)):
        opt = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        f = o.get_wsd_schedule(opt, warmup, decay, num_training_steps=total, decay_type=shape, min_lr_ratio=ratio).lr_lambdas[0]
        for s in range(0, total + 1, 2):
            row("wsd", warmup, total, ratio, decay, "sqrt" if shape == "1-sqrt" else shape, s, repr(float(f(s))))
