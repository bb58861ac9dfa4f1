#!/usr/bin/env python3
"""Checks of whole training runs on a GPU, one line each: PASS, FAIL or SKIP, what, and the numbers.

    . bundle/env.sh && python3 tools/gpu_checks.py [--device cuda|cpu] [--steps N] [--work DIR] [CHECK...]

curves         bf16 against fp32 from the same weights on the same data: the mean loss of the last quarter of 200 steps
               within 0.5 %, full tuning and LoRA, two model shapes
packed         the losses of a run over packed rows are those of one document a row
deterministic  runtime.deterministic: again, recomputed and resumed runs end with the same bits
attention      bf16 training of head widths 64 and 128 took the library's attention and no other
offload        the losses of runs with masters and states, then the weights, too, in host memory are those without (fp32 to
               1e-5, bf16 to 5e-3 over 20 steps), after and in backward; the planned peak is the step's and falls
plan           peak planned and peak of the run, the driver's figure beside region and context: six works (WORKS)

On the CPU (the test suite does so, with few steps) both precisions are fp32 and equal by construction, which checks
the script and not the hardware."""
import argparse
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
QUICK = ROOT / "configs/quickstart/data"
FIXTURES = ROOT / "tests/fixtures"


class Lorac:
    def __init__(self, device, work):
        self.path = shutil.which("lorac") or sys.exit("lorac is not on the path: source bundle/env.sh")
        self.device, self.work, self.last = device, work, ""

    def run(self, *args):
        done = subprocess.run([self.path, *map(str, args)], capture_output=True, text=True, timeout=600)
        self.last = done.stdout + done.stderr
        if done.returncode:
            raise RuntimeError(self.last.strip().splitlines()[-1] if self.last.strip() else f"exit {done.returncode}")
        return self.last

    def train(self, name, config, *overrides):
        """-> the losses; the run's output folder is work/name"""
        path, out = self.work / f"{name}.json", self.work / name
        if "resume" not in " ".join(overrides):
            shutil.rmtree(out, ignore_errors=True)
        path.write_text(json.dumps(config), encoding="utf-8")
        text = self.run("train", "--verbose", path, f"output={out}", f"runtime.device={self.device}", "runtime.memory=8",
                        "log.tensorboard=false", "log.every=100000", *overrides)
        self.hash = re.findall(r"#([0-9a-f]{8})", text)[-1]
        with open(out / "metrics.jsonl", encoding="utf-8") as lines:
            return [row["loss"] for row in map(json.loads, lines) if "grad_norm" in row]

    def has_key(self, key):
        return f"`{key}`" in self.run("check", "--explain")


def mean(values):
    return sum(values) / len(values)


# ---- curves ----------------------------------------------------------------------------------------

SHAPES = {  # name: shape, tokenizer
    "4 layers, heads of 64": (dict(vocab_size=1024, hidden_size=256, intermediate_size=688, num_hidden_layers=4,
                                   num_attention_heads=4, num_key_value_heads=2, head_dim=64), QUICK / "tokenizer"),
    "stories260k's": (dict(vocab_size=512, hidden_size=64, intermediate_size=172, num_hidden_layers=5,
                           num_attention_heads=8, num_key_value_heads=4, head_dim=8), FIXTURES / "byte-tokenizer"),
}


def model_folder(lorac, name, shape, tokenizer):
    base = dict(architectures=["LlamaForCausalLM"], model_type="llama", max_position_embeddings=1024, rms_norm_eps=1e-5,
                rope_theta=1e4, hidden_act="silu", initializer_range=0.05, tie_word_embeddings=True, attention_bias=False,
                mlp_bias=False, bos_token_id=1, eos_token_id=2)
    config = lorac.work / f"{name}.config.json"
    config.write_text(json.dumps(base | shape), encoding="utf-8")
    folder = lorac.work / f"{name}-model"
    shutil.rmtree(folder, ignore_errors=True)
    lorac.run("init", folder, "--config", config, "--tokenizer", tokenizer, "--dtype", "bf16")
    return folder


def precisions(lorac):
    return ("fp32", "bf16") if lorac.device == "cuda" else ("fp32", "fp32")


def check_curves(lorac, steps):
    quarter = max(1, steps // 4)
    for number, (title, (shape, tokenizer)) in enumerate(SHAPES.items()):
        base = model_folder(lorac, f"shape{number}", shape, tokenizer)
        optim = dict(lr=1e-3, beta2=0.95, weight_decay=0.1, schedule="cosine", warmup_steps=min(20, quarter))
        text = dict(train=str(QUICK / "corpus.jsonl"), format="text", template="raw", train_on="all", max_length=512, cache="off")
        dialogues = dict(train=str(QUICK / "train.jsonl"), format="samsum", max_length=512, cache="off")
        runs = {
            "full": dict(method="full", model=dict(path=str(base)), data=text, batch=dict(**{"global": 4}), optim=optim),
            "lora": dict(method="lora", model=dict(path=str(lorac.work / f"full{number}-0")), data=dialogues,
                         lora=dict(rank=16, alpha=32), batch=dict(**{"global": 4}), optim=optim),
        }
        for method, config in runs.items():
            config |= dict(train=dict(max_steps=steps), save=dict(every=0, dtype="bf16"))
            ends, starts = [], []
            for i, precision in enumerate(precisions(lorac)):
                losses = lorac.train(f"{method}{number}-{i}", config, f"runtime.precision={precision}")
                ends.append(mean(losses[-quarter:]))
                starts.append(losses[0])
            off = abs(ends[1] / ends[0] - 1)
            good = off <= 0.005 and ends[0] < starts[0]
            yield good, f"curves: {method}, {title}", (f"loss {starts[0]:.4f} -> fp32 {ends[0]:.4f}, bf16 {ends[1]:.4f}: "
                                                       f"{100 * off:.2f} % of 0.50")


# ---- packed ----------------------------------------------------------------------------------------

def fixture_config(folder, method, steps):
    """A step takes all of the fixture's 120 documents."""
    how = dict(method="full") if method == "full" else dict(method="lora", lora=dict(rank=4, alpha=8))
    return how | dict(model=dict(path=str(folder)), train=dict(max_steps=steps), optim=dict(lr=2e-3),
                      data=dict(train=str(folder / "packed.jsonl"), format="tokens", max_length=64, cache="off", packing="off"),
                      batch=dict(**{"global": 200}), save=dict(every=0))


def check_packed(lorac, steps):
    for name, methods in ("llama3-d64", ("full", "lora")), ("qwen2-d128", ("lora",)):
        for method in methods:
            for precision in dict.fromkeys(precisions(lorac)):
                config = fixture_config(FIXTURES / "models" / name, method, min(steps, 20))
                args = [f"runtime.precision={precision}"]
                apart = lorac.train("apart", config, *args)
                ways = {"packed": ["data.packing=best_fit"], "two rows at once": ["data.packing=best_fit", "batch.micro=2"]}
                worst, allowed = 0, 2e-5 if precision == "fp32" else 5e-3
                for way, more in ways.items():
                    packed = lorac.train(way.replace(" ", "-"), config, *args, *more)
                    worst = max([worst] + [abs(a / b - 1) for a, b in zip(packed, apart, strict=True)])
                yield worst <= allowed, f"packed: {name} {method} {precision}", f"{worst:.1e} of {allowed:.0e}"


# ---- deterministic ---------------------------------------------------------------------------------

def check_deterministic(lorac, steps):
    if not lorac.has_key("runtime.deterministic"):
        yield None, "deterministic", "there is no runtime.deterministic yet"
        return
    n = max(4, min(steps, 20) // 2 * 2)
    for name, methods in ("llama3-d64", ("full",)), ("llama2-d128", ("lora",)):
        for method in methods:
            config = fixture_config(FIXTURES / "models" / name, method, n)
            base = [f"runtime.precision={precisions(lorac)[1]}", "runtime.deterministic=true", "batch.global=16"]

            def run(way, *more):
                return lorac.train(f"det-{way}", config, *base, *more), lorac.hash

            want = run("first")
            ways = {"again": run("again"), "recomputed": run("recomputed", "train.recompute=full"),
                    "packed, recomputed": None}
            packed = run("packed", "data.packing=best_fit")
            ways["packed, recomputed"] = run("packed-again", "data.packing=best_fit", "train.recompute=full")
            # stops in the middle: the second half removed, the run goes on from its checkpoint
            run("resumed", f"save.every={n // 2}")
            out = lorac.work / "det-resumed"
            shutil.rmtree(out / f"checkpoint-{n}")
            ways["resumed"] = run("resumed", f"save.every={n // 2}", "resume=auto")
            if method == "full":  # bf16 gradients, updated in backward or after it
                blocks = ["train.gradients=auto", "optim.clip_by=block", "optim.clip=0.05"]
                after = run("after", *blocks, "train.update=after")
                got = run("in-backward", *blocks, "train.update=in_backward")
                yield got == after, f"deterministic: {name} updated in backward", f"#{got[1]} and #{after[1]}"
            for way, got in ways.items():
                same = got == (packed if "packed" in way else want)
                yield same, f"deterministic: {name} {method} {way}", f"#{got[1]} and #{(packed if 'packed' in way else want)[1]}"


# ---- attention -------------------------------------------------------------------------------------

def check_attention(lorac, steps):
    if lorac.device != "cuda":
        yield None, "attention", "there is no library's attention here"
        return
    for name in "llama3-d64", "llama3-d128":
        for packing in "off", "best_fit":
            lorac.train("attention", fixture_config(FIXTURES / "models" / name, "full", min(steps, 4)),
                        "runtime.precision=bf16", f"data.packing={packing}")
            found = re.search(r"attention: (\d+) calls by the library's engine, (\d+) by our own", lorac.last)
            flash, own = map(int, found.groups()) if found else (0, -1)
            yield flash > 0 and own == 0, f"attention: {name}, packing {packing}", f"{flash} by the library, {own} by our own"


# ---- offload ---------------------------------------------------------------------------------------

OFFLOADS = ("optimizer", "optimizer+params")


def check_offload(lorac, steps):
    n = min(steps, 20)
    blocks = ["optim.clip_by=block", "batch.global=16"]
    works = {"full": ("full", []), "full in backward": ("full", [*blocks, "train.update=in_backward"]),
             "full in micro-batches": ("full", ["batch.micro=50", "train.recompute=full"]), "lora": ("lora", [])}
    for name, (method, more) in works.items():
        for precision in dict.fromkeys(precisions(lorac)):
            config = fixture_config(FIXTURES / "models" / "llama3-d64", method, n)
            args = [f"runtime.precision={precision}", *more]
            want = lorac.train("off-none", config, *args)
            allowed = 0 if lorac.device == "cpu" else 1e-5 if precision == "fp32" else 5e-3
            for how in OFFLOADS:
                got = lorac.train("off", config, *args, f"parallel.offload={how}")
                worst = max(abs(a / b - 1) for a, b in zip(got, want, strict=True))
                yield worst <= allowed, f"offload: {how}, {name} {precision}", f"{worst:.1e} of {allowed:.0e}"
    shape = "--model llama-3.2-1b" if lorac.device == "cuda" else "--model tiny --seq 64"
    for update in "after", "in_backward":
        peaks = []
        for how in "none", *OFFLOADS:
            text = lorac.run("bench", "--json", "--device", lorac.device, "--exact", "--rows", "full", "--seconds", "0", "--steps", "1",
                             *shape.split(), "--method", "full", "--update", update, "--recompute", "full", "--offload", how)
            row = json.loads(text)
            peaks.append(row["peak_bytes"])
            good = row["peak_bytes"] == row["planned_bytes"] and peaks == sorted(set(peaks), reverse=True)
            yield good, f"offload: {how}, peak, updated {update}", (f"planned {row['planned_bytes'] / 2**20:.1f} MiB, was "
                                                                    f"{peaks[-1] / 2**20:.1f}; {row.get('host_bytes', 0) / 2**20:.1f} of the host")


# ---- plan ------------------------------------------------------------------------------------------

WORKS = {
    "8B LoRA, 4 x 4096": "--model llama-3-8b --micro 4",
    "8B LoRA, 1 x 4096, recompute": "--model llama-3-8b --micro 1 --recompute full",
    "8B full, 1 x 4096, recompute": "--model llama-3-8b --micro 1 --method full --recompute full",
    "1B full, 4 x 4096": "--model llama-3.2-1b --micro 4 --method full",
    "7B LoRA, 8 x 2048": "--model llama-2-7b --micro 8 --seq 2048",
    "Qwen3-8B LoRA, 2 x 4096": "--model qwen3-8b --micro 2",
}
TINY_WORKS = {
    "tiny LoRA": "--model tiny --micro 2 --seq 512",
    "tiny full, recompute": "--model tiny --method full --seq 512 --recompute full",
}


def check_plan(lorac, steps):
    for name, flags in (WORKS if lorac.device == "cuda" else TINY_WORKS).items():
        text = lorac.run("bench", "--json", "--device", lorac.device, "--exact", "--seconds", "0", "--steps", "1", *flags.split())
        for row in map(json.loads, filter(None, text.splitlines())):
            planned, peak = row["planned_bytes"], row["peak_bytes"]
            good, numbers = planned == peak, f"planned {planned / 2**30:.3f} GiB, was {peak / 2**30:.3f}"
            if row["driver_bytes"] > 0:
                mine = row["reserved_bytes"] + row["context_bytes"]
                off = abs(row["driver_bytes"] / mine - 1)
                good = good and off <= 0.01 and row["context_bytes"] < 2**30
                numbers += (f"; planned extent + context {mine / 2**30:.2f}, driver {row['driver_bytes'] / 2**30:.2f}: "
                            f"{100 * off:.2f} %; context {row['context_bytes'] / 2**30:.3f}")
            kind = "packed" if row["rows"] == "packed" else "dense"
            yield good, f"plan: {name}, {kind}", numbers


CHECKS = {"curves": check_curves, "packed": check_packed, "deterministic": check_deterministic, "attention": check_attention,
          "offload": check_offload, "plan": check_plan}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--work", type=pathlib.Path, help="kept; default: a temporary folder")
    parser.add_argument("checks", nargs="*", metavar="CHECK", help=" ".join(CHECKS))
    args = parser.parse_args()
    unknown = set(args.checks) - set(CHECKS)
    if unknown:
        parser.error(f"there is no {', '.join(unknown)}; there are {', '.join(CHECKS)}")
    failed = 0
    with tempfile.TemporaryDirectory() as tmp:
        work = (args.work or pathlib.Path(tmp)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        lorac = Lorac(args.device, work)
        for name in args.checks or CHECKS:
            try:
                for good, what, numbers in CHECKS[name](lorac, args.steps):
                    failed += good is False
                    print("SKIP" if good is None else "PASS" if good else "FAIL", f" {what:52} {numbers}", flush=True)
            except (RuntimeError, OSError, subprocess.TimeoutExpired, KeyError, IndexError, ValueError) as e:
                failed += 1
                print(f"FAIL  {name:52} {e}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
