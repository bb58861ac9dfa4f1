#!/usr/bin/env python3
"""The steps of the project's table on this GPU, each beside its floor and its planned peak.

    tools/gpu-bench.sh [--out FILE] [--seconds S] [--list] [WORK...]

Writes a line of JSON a work to FILE (bench/results/gpu.jsonl) and prints a table with the marks at the end.  S seconds of
steps and as many of the floor each; with the default of 5 the whole takes under five minutes on an H200.  `files` (in no
default list: it writes 16 GB) times the first step of an 8B model from safetensors files; `train` a run on packed
documents, each step of another size; decode-... time generation.  Profiles and the kernels' table go
beside FILE as FILE.txt.  peer-... are the same steps by transformers and PEFT (bench/peers).

--device cpu runs tiny shapes instead: a test of this script."""
import argparse
import contextlib
import functools
import json
import operator
import os
import pathlib
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
ATTENTION = "--targets q_proj,k_proj,v_proj,o_proj"
L8 = "--model llama-3-8b"

# name: flags, and (must, aim) of tokens/s, of the peak in GiB, of step / floor
WORKS = {
    "8b-lora": (f"{L8} --micro 4 --recompute none --rows both", dict(speed=(16500, 17500), floor=(1.16, 1.09))),
    "8b-lora-attention": (f"{L8} --micro 4 --recompute none {ATTENTION}", dict(speed=(17000, 17900))),
    "8b-lora-micro1": (f"{L8} --micro 1 --recompute none", dict(peak=(32, 28.5))),
    "8b-lora-micro1-selective": (f"{L8} --micro 1 --recompute selective", dict(peak=(32, 28.5))),
    "8b-lora-selective": (f"{L8} --micro 4 --recompute selective", {}),
    "8b-lora-recompute": (f"{L8} --micro 4 --recompute full", dict(speed=(12300, 13100), peak=(25, 24))),
    "8b-lora-auto-48": (f"{L8} --micro 4 --recompute auto --memory 48", {}),
    "8b-full": (f"{L8} --method full --micro 3 --recompute auto", dict(speed=(11000, 11700), floor=(1.12, 1.06))),
    "1b-full": ("--model llama-3.2-1b --method full --micro 4 --recompute none", dict(speed=(62000, 70000))),
    "7b-lora": ("--model llama-2-7b --seq 2048 --micro 8 --recompute none", dict(speed=(18500, 20000))),
}
TINY = {
    "tiny-lora": ("--model tiny --seq 64 --micro 2 --rows both", dict(speed=(1, 1e9), floor=(1e9, 1e-9))),
    "tiny-full": ("--model tiny --seq 64 --method full --recompute full", dict(peak=(1, 1e-9))),
}
MORE = {  # in no default list: the price of determinism; what host memory costs; QLoRA and its bf16 twin
    "8b-full-offload": (f"{L8} --method full --micro 3 --offload optimizer", {}),
    "8b-full-offload-after": (f"{L8} --method full --micro 3 --offload optimizer --update after", {}),
    "8b-full-offload-params": (f"{L8} --method full --micro 3 --offload optimizer+params", {}),
    "8b-lora-offload-params": (f"{L8} --micro 4 --offload optimizer+params", {}),
    "8b-lora-deterministic": (f"{L8} --micro 4 --recompute none --deterministic", {}),
    "8b-lora-2048": (f"{L8} --seq 2048 --micro 2 --recompute full", {}),
    "8b-lora-dora": (f"{L8} --seq 2048 --micro 2 --recompute full --dora", {}),
    "8b-qlora": (f"{L8} --seq 2048 --micro 2 --recompute full --method qlora", {}),
    "8b-qlora-scratches-1": (f"{L8} --seq 2048 --micro 2 --recompute full --method qlora --scratches 1", {}),
    "8b-qlora-scratches-2": (f"{L8} --seq 2048 --micro 2 --recompute full --method qlora --scratches 2", {}),
    "8b-qlora-embedding-host": (f"{L8} --seq 2048 --micro 2 --recompute full --method qlora --embedding host", {}),
    "8b-qlora-ahead": (f"{L8} --seq 2048 --micro 2 --recompute full --method qlora --decode-ahead", {}),
    "7b-int8": ("--model llama-2-7b --seq 2048 --micro 1 --recompute full --method qlora --quantize int8", {}),
    "7b-int8-micro7": ("--model llama-2-7b --seq 2048 --micro 7 --recompute full --method qlora --quantize int8", {}),
    "70b-qlora": ("--model llama-2-70b --seq 2048 --micro 1 --recompute full --method qlora", {}),
}
DECODE = {  # lorac bench --decode: a token at a time for one sequence or a few
    "decode-bf16": f"{L8}",
    "decode-nf4": f"{L8} --quantize nf4",
    "decode-int8": f"{L8} --quantize int8",
    "decode-nf4-batch8": f"{L8} --quantize nf4 --batch 8",
    "decode-nf4-unmerged": f"{L8} --quantize nf4 --unmerged",
    "decode-nf4-long": f"{L8} --quantize nf4 --prompt 8000",
    "decode-bf16-no-early": f"{L8} --no-early",
    "decode-nf4-no-early": f"{L8} --quantize nf4 --no-early",
    "decode-nf4-no-graph": f"{L8} --quantize nf4 --no-graph",
}
PEERS = {  # bench/peers/hf_peft.py on the same GPU
    "peer-8b-lora": "--model llama-3-8b --micro 1",
    "peer-8b-lora-compiled": "--model llama-3-8b --micro 1 --compile",
    "peer-8b-lora-recompute": "--model llama-3-8b --micro 4 --checkpoint",
    "peer-8b-full": "--model llama-3-8b --method full --micro 1",
    "peer-1b-full": "--model llama-3.2-1b --method full --micro 4",
    "peer-7b-lora": "--model llama-2-7b --seq 2048 --micro 1",
}
START = dict(cold=(20, 8), warm=(10, 4), files=(10, 4))  # seconds to the end of the first step: must, aim


class Clocks:
    """What nvidia-smi says of the first GPU, ten times a second, while something runs."""

    QUERY = "clocks.sm", "clocks.mem", "temperature.gpu", "power.draw", "clocks_event_reasons.active"

    def __enter__(self):
        self.told, self.row = tempfile.TemporaryFile("w+", encoding="utf-8"), {}
        gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
        self.smi = subprocess.Popen(["nvidia-smi", "-i", gpu, f"--query-gpu={','.join(self.QUERY)}", "--format=csv,noheader,nounits", "-lms", "100"],
                                    stdout=self.told, stderr=subprocess.DEVNULL)
        return self

    def __exit__(self, *_):
        self.smi.terminate()
        self.smi.wait()
        self.told.seek(0)
        samples = []
        for line in self.told.read().splitlines(keepends=True):
            with contextlib.suppress(ValueError):  # cut off, or [N/A]
                *numbers, reasons = line.split(", ")
                if line.endswith("\n") and len(numbers) == len(self.QUERY) - 1:
                    samples.append((*map(float, numbers), int(reasons, 16)))
        self.told.close()
        if not samples:
            return
        sm, mem, heat, power, reasons = zip(*samples)
        busy = [c for c, p in zip(sm, power) if p >= max(power) / 2]
        self.row = dict(clocks=dict(sm_mhz_least=min(busy), sm_mhz_most=max(busy), mem_mhz=max(mem), celsius=max(heat), watt=max(power),
                                    reasons=f"{functools.reduce(operator.or_, reasons):#x}"))


class Bench:
    def __init__(self, args):
        self.path = shutil.which("lorac") or sys.exit("lorac is not on the path: source bundle/env.sh")
        self.args, self.rows, self.failed = args, [], 0
        self.cpu = args.device == "cpu"
        args.out.parent.mkdir(parents=True, exist_ok=True)
        self.text = open(f"{args.out}.txt", "a", encoding="utf-8")

    def lorac(self, *args, env=None):
        done = subprocess.run([self.path, *map(str, args)], capture_output=True, text=True, timeout=400,
                              env=os.environ | (env or {}))
        if done.returncode:
            lines = done.stderr.strip().splitlines()
            raise RuntimeError(lines[-1] if lines else f"exit {done.returncode}")
        return done.stdout

    def bench(self, flags, seconds=None, json_out=True, env=None):
        limits = ["--seconds", self.args.seconds if seconds is None else seconds, "--steps", 1 if self.cpu or seconds == 0 else 3]
        text = self.lorac("bench", "--device", self.args.device, *limits, *(["--json"] if json_out else []), *flags.split(), env=env)
        return [json.loads(line) for line in text.splitlines()] if json_out else text

    def keep(self, row):
        self.rows.append(row)
        with open(self.args.out, "a", encoding="utf-8") as out:
            print(json.dumps(row), file=out)

    # ---- works -------------------------------------------------------------------------------------

    def work(self, name, flags, marks):
        flags += "" if "--rows" in flags else " --rows full"
        for row in self.bench(flags):
            packed = row["rows"] == "packed"
            self.keep(dict(name=name + ("-packed" if packed else "")) | row | dict(marks={} if packed else marks))

    def decode(self, name):
        flags = DECODE[name].replace(L8, "--model tiny --prompt 9 --new 3" if self.cpu else L8)
        if self.cpu:
            flags = flags.replace("--prompt 8000", "")
        clocks = Clocks() if self.args.clocks else contextlib.nullcontext()
        with clocks:
            text = self.lorac("bench", "--decode", "--json", "--device", self.args.device, *flags.split())
        self.keep(dict(name=name) | json.loads(text) | getattr(clocks, "row", {}))

    def start(self):
        """Caches of ours cold, then warm; the driver's and the libraries' are as they are."""
        flags = "--model tiny --seq 64 --rows full" if self.cpu else f"{L8} --micro 4 --recompute none --rows full"
        with tempfile.TemporaryDirectory() as cache:
            for name in "cold", "warm":
                row = self.bench(flags, 0, env={"XDG_CACHE_HOME": cache})[0]
                self.keep(dict(name=f"start-{name}", seconds=row["first_step_s"], marks=dict(start=START[name])))

    def files(self):
        """From the command to the end of the first step: config, data, plan, 16 GB of weights, caches of ours warm."""
        with tempfile.TemporaryDirectory(dir=self.args.work) as tmp:
            tmp = pathlib.Path(tmp)
            preset, length, micro = ("tiny", 64, 2) if self.cpu else ("llama-3-8b", 4096, 4)
            began = time.monotonic()
            self.lorac("init", tmp / "model", "--preset", preset, "--dtype", "bf16")
            written = time.monotonic() - began
            rng = random.Random(1)
            with open(tmp / "data.jsonl", "w", encoding="utf-8") as data:
                for _ in range(4 * micro):
                    print(json.dumps(dict(input_ids=[rng.randrange(256) for _ in range(length)])), file=data)
            config = dict(method="lora", lora=dict(rank=16, alpha=32), model=dict(path=str(tmp / "model")),
                          data=dict(train=str(tmp / "data.jsonl"), format="tokens", max_length=length, cache="off"),
                          batch={"global": micro}, train=dict(max_steps=2), save=dict(every=0), log=dict(tensorboard=False),
                          runtime=dict(device=self.args.device))
            (tmp / "run.yaml").write_text(json.dumps(config), encoding="utf-8")
            size = sum(f.stat().st_size for f in (tmp / "model").glob("*.safetensors"))
            for name in "cold", "again", "warm":  # warm: what init left in the page cache may have been pushed out
                if name == "cold" and (self.cpu or not drop_page_cache()):
                    continue
                seconds = self.first_step(tmp / "run.yaml", tmp / name)
                if name != "again":
                    self.keep(dict(name=f"files-{name}", seconds=seconds, bytes=size, init_s=written,
                                   marks=dict(start=START["files"]) if name == "warm" else {}))

    def train(self):
        """A run of `lorac train` as users have it: packed documents of SAMSum's lengths, of which the last fifth is trained, so that
        no two micro-batches have the same number of tokens.  Tokens/s by the median step, and the slowest behind the third."""
        with tempfile.TemporaryDirectory(dir=self.args.work) as tmp:
            tmp = pathlib.Path(tmp)
            preset, length, micro, steps = ("tiny", 64, 2, 6) if self.cpu else ("llama-3-8b", 4096, 4, 16)
            rng, left = random.Random(1), 1.1 * length * micro * steps
            with open(tmp / "data.jsonl", "w", encoding="utf-8") as data:
                while left > 0:
                    n = max(2, min(int(rng.lognormvariate(4.95, 0.7)), length) // (8 if self.cpu else 1))
                    ids, left = [rng.randrange(256) for _ in range(n)], left - n
                    print(json.dumps(dict(input_ids=ids, labels=[-100] * (4 * n // 5) + ids[4 * n // 5:])), file=data)
            config = dict(method="lora", lora=dict(rank=16, alpha=32), model=dict(init="random", preset=preset),
                          data=dict(train=str(tmp / "data.jsonl"), format="tokens", max_length=length, cache="off"),
                          batch={"global": micro, "micro": micro}, train=dict(max_steps=steps, recompute="selective"),
                          save=dict(every=0), log=dict(tensorboard=False), runtime=dict(device=self.args.device))
            (tmp / "run.yaml").write_text(json.dumps(config), encoding="utf-8")
            self.lorac("train", "--quiet", tmp / "run.yaml", f"output={tmp / 'out'}")
            lines = [json.loads(line) for line in (tmp / "out/metrics.jsonl").read_text(encoding="utf-8").splitlines()]
            seconds = [line["step_time"] for line in lines if "loss" in line][3:]
            tokens = [line["tokens"] for line in lines if "loss" in line][3:]
            self.keep(dict(name="train-packed", train_tokens_per_s=sum(tokens) / sum(seconds), steps=seconds,
                           median_s=statistics.median(seconds), slowest_s=max(seconds), tokens=tokens))

    def first_step(self, config, out):
        metrics, began = out / "metrics.jsonl", time.monotonic()
        run = subprocess.Popen([self.path, "train", "--quiet", config, f"output={out}"], stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, text=True)
        while run.poll() is None and not (metrics.exists() and '"loss"' in metrics.read_text(encoding="utf-8")):
            time.sleep(0.005)
        seconds = time.monotonic() - began
        _, err = run.communicate()
        if run.returncode:
            raise RuntimeError(err.strip())
        return seconds

    def kernels(self, flags=f"{L8} --micro 4 --recompute none"):
        """Share of the copy bandwidth of each memory-bound kernel, and a profile of a step."""
        flags = "--model tiny --seq 64 --rows full" if self.cpu else f"{flags} --rows full"
        row = self.bench(f"{flags} --kernels", 0)[0]
        self.keep(dict(name="kernels") | row)
        copy = row["copy_bytes_per_s"]
        print(f"  {'kernel':18} {'us a call':>10} {'of a copy':>10}   (a copy moves {copy / 1e9:.0f} GB/s)", file=self.text)
        for name, k in row["kernels"].items():
            if k["seconds"] > 0 and not name.startswith(("matmul", "attention")):
                print(f"  {name:18} {1e6 * k['seconds'] / k['calls']:10.1f} {100 * k['bytes'] / k['seconds'] / copy:8.0f} %",
                      file=self.text)
        print(self.bench(f"{flags} --profile", 0, json_out=False), file=self.text, flush=True)

    def matrix(self):
        flags = "--model tiny --seq 32 --micro 2" if self.cpu else L8
        for row in self.bench(f"{flags} --matrix", min(self.args.seconds, 1)):
            self.keep(dict(name="matrix: " + row["way"]) | row)

    def peer(self, name):
        done = subprocess.run([sys.executable, ROOT / "bench/peers/hf_peft.py", "--json", "--seconds", str(self.args.seconds),
                               *("--model tiny --seq 64".split() if self.cpu else PEERS[name].split())],
                              capture_output=True, text=True, timeout=400)
        if done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1])
        self.keep(dict(name=name) | json.loads(done.stdout.splitlines()[-1]))

    # ---- the table ---------------------------------------------------------------------------------

    def table(self):
        def mark(value, marks, more):
            if not marks:
                return ""
            must, aim = marks
            good = (lambda m: value >= m) if more else (lambda m: value <= m)
            return "aim" if good(aim) else "must" if good(must) else f"SHORT of {must:g}"

        print(f"\n{'work':42} {'tokens/s':>9} {'mark':14} {'/ floor':>7} {'mark':14} {'peak GiB':>8} {'mark':12} {'planned':>8} "
              f"{'MFU %':>6} {'first s':>7}")
        for r in self.rows:
            marks = r.get("marks", {})
            if "seconds" in r:
                print(f"{r['name']:42} first step after {r['seconds']:.2f} s  {mark(r['seconds'], marks.get('start'), False)}")
            elif "train_tokens_per_s" in r:
                print(f"{r['name']:42} {r['train_tokens_per_s']:9.0f} a run of lorac train: {r['median_s']:.3f} s a step, the slowest {r['slowest_s']:.3f}")
            elif "decode_tokens_per_s" in r:
                planned = "the same" if r["planned_bytes"] == r["peak_bytes"] else "DIFFERS"
                print(f"{r['name']:42} {r['decode_tokens_per_s']:9.1f} {1e3 * r['token_s']:8.3f} ms a token, {r['of_copy_percent']:5.1f} % of copy "
                      f"bandwidth; peak {r['peak_bytes'] / 2**30:.2f} GiB, planned {planned}")
                if "clocks" in r:
                    print(f"{'':42} {'at {sm_mhz_least:.0f} to {sm_mhz_most:.0f} MHz, {mem_mhz:.0f} of memory, {celsius:.0f} C, {watt:.0f} W, reasons {reasons}'.format(**r['clocks'])}")
            elif "peer" in r:
                print(f"{r['name']:42} {r['tokens_per_s']:9.0f} {'':37} {r['peak_bytes'] / 2**30:8.2f} {'':29} {r['first_step_s']:7.2f}")
            elif "step_s" in r:
                over, peak = r.get("to_floor", r["step_over_floor"]), r["peak_bytes"] / 2**30
                planned = "the same" if r["planned_bytes"] == r["peak_bytes"] else "DIFFERS"
                print(f"{r['name']:42} {r['tokens_per_s']:9.0f} {mark(r['tokens_per_s'], marks.get('speed'), True):14} {over:7.3f} "
                      f"{mark(over, marks.get('floor'), False):14} {peak:8.2f} {mark(peak, marks.get('peak'), False):12} "
                      f"{planned:>8} {r['mfu_with_attention_percent']:6.1f} {r['first_step_s']:7.2f}")
            else:
                print(f"{r['name']:42} does not fit")
        speed = {r["name"]: r["decode_tokens_per_s"] for r in self.rows if "decode_tokens_per_s" in r}
        if {"decode-bf16", "decode-nf4"} <= set(speed):
            ratio = speed["decode-nf4"] / speed["decode-bf16"]
            print(f"{'decoding, nf4 / bf16':42} {ratio:9.2f} {mark(ratio, (2.5, 2.8), True)}")
        if os.path.getsize(self.text.name):
            print(f"kernels and profile: {self.text.name}")

    def run(self, name):
        works = TINY if self.cpu else WORKS | MORE
        began = time.monotonic()
        try:
            if name in works:
                self.work(name, *works[name])
            elif name in DECODE:
                self.decode(name)
            elif name in PEERS:
                self.peer(name)
            elif name == "profile-qlora":
                self.kernels(MORE["8b-qlora"][0])
            else:
                getattr(self, name)()
        except (RuntimeError, subprocess.TimeoutExpired, KeyError, ValueError) as e:
            self.failed += 1
            print(f"FAILED {name}: {e}", flush=True)
        print(f"-- {name}: {time.monotonic() - began:.1f} s", flush=True)


def drop_page_cache():
    try:
        os.sync()
        pathlib.Path("/proc/sys/vm/drop_caches").write_text("3\n", encoding="ascii")
        return True
    except OSError:
        print("the page cache cannot be dropped here: no cold start from files")
        return False


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "bench/results/gpu.jsonl")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--work", type=pathlib.Path, help="folder for the files of `files`; default: a temporary one")
    parser.add_argument("--clocks", action="store_true", help="nvidia-smi's clocks, heat and power beside each work of decoding")
    parser.add_argument("--list", action="store_true", help="the works' names")
    parser.add_argument("works", nargs="*", metavar="WORK")
    args = parser.parse_args()
    default = [*(TINY if args.device == "cpu" else WORKS), "start", "kernels", "matrix"]
    others = ["files", "train", "profile-qlora", *MORE, *DECODE, *PEERS]
    if args.list:
        print(*default, *others, sep="\n")
        return 0
    unknown = set(args.works) - {*default, *others}
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}; --list names them")
    bench = Bench(args)
    for name in args.works or default:
        bench.run(name)
    bench.table()
    print(f"results: {args.out}")
    return 1 if bench.failed or not bench.rows else 0


if __name__ == "__main__":
    sys.exit(main())
