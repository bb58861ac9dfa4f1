#!/usr/bin/env python3
"""Holds lorac's tokenizers against the libraries that define them, on random texts.

    check_tokenizer.py PIPE [--cases N] [--seed S] [--only NAME]

PIPE is the built tests/data/tokenizer_pipe.  Needs the packages tokenizers, sentencepiece and tiktoken, and
for the large vocabularies ../shared (or $LORAC_SHARED); says what it skips.  Files are compared as they are and
in variants that we make from them: Qwen's pipeline, Metaspace in all its forms, odd added tokens, every way
to split, unknown tokens, SentencePiece's normalizer flags.
"""
import argparse
import base64
import copy
import io
import json
import os
import pathlib
import random
import struct
import subprocess
import sys
import tempfile
import unicodedata

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHARED = pathlib.Path(os.environ.get("LORAC_SHARED", ROOT.parent / "shared"))
SPECIALS, NO_PREFIX = 1, 2
META = "\u2581"
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")

# ---- texts ----

WORDS = ("the of and a in is it you that he was for on are with as his they be at one have this from I'm you've "
         "It's DON'T we'll HELLO naïve café résumé Straße übergröße ﬁne 'ſ ſ's K İstanbul ΑΒΓ Привет мир 你好 世界 "
         "日本語 テキスト 안녕하세요 العربية हिन्दी ไทย עברית 1234567 3.14159 0x1F 2024-01-01 http://a.b/c?d=e user@host "
         "foo_bar camelCase {\"k\":[1,2]} def f(x): return x**2 // # /* */ <div> </s <s <0x41> <0xZZ> [INST] [/INST] "
         "<<SYS>> <| |> ... --- === !!! ??? $100 50% a.b.c").split()
SCRIPTS = [(0x20, 0x7E), (0xA0, 0x17F), (0x300, 0x36F), (0x370, 0x5FF), (0x600, 0x6FF), (0x900, 0x97F),
           (0xE00, 0xE7F), (0x1100, 0x11FF), (0x1E00, 0x1FFF), (0x2000, 0x206F), (0x2100, 0x214F), (0x3000, 0x30FF),
           (0x3130, 0x318F), (0x4E00, 0x4FFF), (0xAC00, 0xAD00), (0xF900, 0xFAFF), (0xFB00, 0xFB4F), (0xFE00, 0xFE0F),
           (0x1F300, 0x1F6FF), (0x1F900, 0x1F9FF), (0x20000, 0x20100), (0x2F800, 0x2F8FF), (0x0, 0x1F), (0x7F, 0x9F),
           (0x1D15E, 0x1D1C0), (0x10000, 0x10FFFF)]
SPACES = " " * 8 + "\t\n\r\x0b\x0c\x1c\x85\xa0\u1680\u180e\u2000\u2003\u2028\u2029\u202f\u205f\u3000\u200b\ufeff"
EMOJI = ["🙂", "👍🏽", "👨‍👩‍👧", "🇩🇪", "❤️", "e\u0301", "a\u0323\u0302", "가", "각", "Å", "Ω", "豈"]


def scalar(r):
    while True:
        lo, hi = r.choice(SCRIPTS)
        c = r.randint(lo, hi)
        # Characters newer than PCRE2's Unicode (14 in 10.42, as in Python 3.11) are letters to Oniguruma only.
        if not 0xD800 <= c < 0xE000 and unicodedata.category(chr(c)) != "Cn":
            return chr(c)


def make_text(r, extra):
    """extra: strings that mean something to the tokenizer at hand."""
    out = []
    for _ in range(r.choice([0, 1, 1, 2, 3, 5, 8, 13, 30])):
        kind = r.random()
        if kind < 0.40:
            out.append(r.choice(WORDS))
        elif kind < 0.60:
            out.append(r.choice(SPACES) * r.choice([1, 1, 1, 2, 3, 7]))
        elif kind < 0.70:
            out.append("".join(scalar(r) for _ in range(r.randint(1, 6))))
        elif kind < 0.77:
            out.append(r.choice(EMOJI))
        elif kind < 0.82:
            out.append(META * r.randint(1, 3))
        elif kind < 0.95 and extra:
            out.append(r.choice(extra))
        elif kind < 0.97:
            out.append(r.choice("aA0.!\n ") * r.randint(1, 120))
        if r.random() < 0.35:
            out.append(" ")
    return "".join(out)


def long_texts():
    return ["a" * 20000, " " * 20000, "\n" * 5000 + "x", " \n" * 4000, "ab" * 9000, "🙂" * 4000, META * 6000, "1" * 9999,
            "the " * 6000, "\u0301" * 3000, "'s" * 3000, ("x" * 50 + " ") * 300, " " * 9000 + "x" + " " * 9000]


# ---- lorac ----

def run_pipe(pipe, path, cases):
    """cases: (flags, text bytes) -> (ids, starts, decoded, streamed) each."""
    data = b"".join(struct.pack("=II", f, len(b)) + b for f, b in cases)
    p = subprocess.run([pipe, str(path)], input=data, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
    if p.returncode:
        raise SystemExit(f"{path}: tokenizer_pipe ended with {p.returncode}: {p.stderr.decode()[-2000:]}")
    src = io.BytesIO(p.stdout)

    def blob():
        return src.read(struct.unpack("=I", src.read(4))[0])

    out = []
    for _ in cases:
        n, = struct.unpack("=I", src.read(4))
        out.append((list(struct.unpack(f"={n}i", src.read(4 * n))), list(struct.unpack(f"={n}i", src.read(4 * n))),
                    blob(), blob()))
    return out


class Checker:
    def __init__(self, args):
        self.args, self.failed, self.total = args, 0, 0

    def wanted(self, name):
        return not self.args.only or self.args.only in name

    def compare(self, name, path, reference, extra=(), flag_sets=(0, SPECIALS), n=None, longs=True):
        """reference(flags, text) -> (ids, decoded or None, starts or None)."""
        r = random.Random(f"{self.args.seed} {name}")
        texts = [make_text(r, list(extra)) for _ in range(n or self.args.cases)] + list(extra) + ["", " "]
        texts += long_texts() if longs else []
        cases = [(f, t) for t in texts for f in flag_sets]
        got = run_pipe(self.args.pipe, path, [(f, t.encode()) for f, t in cases])
        bad = 0
        for (flags, text), (ids, starts, back, streamed) in zip(cases, got):
            want, want_back, want_starts = reference(flags, text)
            what = ("ids" if ids != want else "stream" if back != streamed else
                    "decoded" if want_back is not None and back.decode() != want_back else
                    "starts" if want_starts is not None and starts != want_starts else None)
            if not what:
                continue
            bad += 1
            if bad <= 3:
                print(f"  {name}: {what} differ, flags {flags}: {text[:200]!r}")
                pairs = {"ids": (want, ids), "stream": (back, streamed), "decoded": (want_back, back.decode()),
                         "starts": (want_starts, starts)}[what]
                print(f"    wanted {pairs[0][:60]!r}\n    got    {pairs[1][:60]!r}")
        self.total += len(cases)
        self.failed += bad
        print(f"{'FAIL' if bad else 'ok  '} {name}: {len(cases)} cases, {bad} differ")


# ---- tokenizer.json ----

def hf_reference(path, decode=True, starts=False):
    import tokenizers
    tok = tokenizers.Tokenizer.from_file(str(path))

    def reference(flags, text):
        tok.encode_special_tokens = not flags & SPECIALS
        enc = tok.encode(text, add_special_tokens=False)
        where = None
        if starts:
            offsets = [0]
            for c in text:
                offsets.append(offsets[-1] + len(c.encode()))
            where = [offsets[a] for a, _ in enc.offsets]
        return enc.ids, tok.decode(enc.ids, skip_special_tokens=False) if decode else None, where

    return reference


def renumber(base, tokens):
    """Ids as the library gives them: the vocabulary's, else the next."""
    vocab, nxt = base["model"]["vocab"], len(base["model"]["vocab"])
    for t in tokens:
        t["id"] = vocab.get(t["content"], nxt)
        nxt += t["id"] == nxt
    return tokens


def added(content, **flags):
    token = dict(id=0, content=content, single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
    token.update(flags)
    return token


def split(pattern, behavior="Isolated", invert=False, kind="Regex"):
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": invert}


def byte_level(prefix=False, use_regex=False):
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": use_regex}


def sequence(*parts, key="pretokenizers"):
    return {"type": "Sequence", key: list(parts)}


def metaspace(scheme, split_it, **more):
    return {"type": "Metaspace", "replacement": META, "prepend_scheme": scheme, "split": split_it, **more}


def variants_of_llama2(base):
    """From Llama 2's file: the pipelines that SentencePiece vocabularies come with."""
    def with_(**parts):
        d = copy.deepcopy(base)
        d.update(parts)
        return d
    for scheme in ("always", "first", "never"):
        for split_it in (False, True):
            yield f"metaspace-{scheme}-{split_it}", with_(normalizer=None, pre_tokenizer=metaspace(scheme, split_it),
                                                          decoder={"type": "Metaspace", "replacement": META,
                                                                   "prepend_scheme": scheme, "split": split_it})
    for prefix in (True, False):
        m = {"type": "Metaspace", "replacement": META, "add_prefix_space": prefix}
        if not prefix:
            m["prepend_scheme"] = "never"
        yield f"metaspace-old-{prefix}", with_(normalizer=None, pre_tokenizer=m)
    odd = renumber(base, base["added_tokens"] + [
        added("<|left|>", lstrip=True), added("<|right|>", rstrip=True),
        added("<|both|>", lstrip=True, rstrip=True), added("<think>", special=False),
        added("word", special=False, single_word=True), added("wordy", special=False, normalized=True),
        added("<|", special=False), added("<|left|>>"), added(" sp ", special=False),
        added("日本", special=False, single_word=True, normalized=True), added("\n\n", special=False)])
    yield "odd-added", with_(added_tokens=odd)
    yield "odd-added-metaspace-first", with_(added_tokens=odd, normalizer=None, pre_tokenizer=metaspace("first", False))
    normal = copy.deepcopy(odd)
    for t in normal:
        t["normalized"] = True
    yield "all-normalized", with_(added_tokens=normal)
    pairs = copy.deepcopy(base)
    pairs["model"]["merges"] = [m.split(" ") if isinstance(m, str) else m for m in pairs["model"]["merges"]]
    pairs["model"]["ignore_merges"] = True
    yield "pairs-ignore-merges", pairs
    for fuse in (True, False):
        d = copy.deepcopy(base)
        d["model"].update(byte_fallback=False, fuse_unk=fuse)
        yield f"unk-fuse-{fuse}", d
    d = copy.deepcopy(base)
    d["model"].update(byte_fallback=False, unk_token=None)
    yield "unk-none", d
    yield "no-decoder", with_(decoder=None)
    d = copy.deepcopy(base)
    del d["model"]["type"]
    yield "no-type", d


def variants_of_llama3(base):
    def with_(**parts):
        d = copy.deepcopy(base)
        d["post_processor"] = None
        d.update(parts)
        return d
    qwen = with_(normalizer={"type": "NFC"},
                 pre_tokenizer=sequence(split(LLAMA3.replace("{1,3}", "")), byte_level()))
    qwen["model"]["ignore_merges"] = False
    qwen["added_tokens"] = renumber(base, [added("<|endoftext|>"), added("<|im_start|>"), added("<|im_end|>"),
                            added("<think>", special=False), added("</think>", special=False),
                            added("é!", special=False, normalized=True)])
    yield "qwen", qwen
    yield "gpt2", with_(pre_tokenizer=byte_level(use_regex=True))
    yield "gpt2-prefix", with_(pre_tokenizer=byte_level(prefix=True, use_regex=True))
    patterns = {
        "cl100k": r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
        "o200k": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
                 r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
                 r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        "words": r"\w+|[^\w\s]+", "bounds": r"\b\w", "lines": r"^.*$", "spaces": r"[\s]+|[^\S]",
        "hex": r"\h+", "digits": r"\d", "not": r"\S+|\D|\W", "empty": r"(?=[A-Z])", "lookbehind": r"(?<=a)b|(?<!x)y",
        "ignore-case": r"(?i:the|se|k)|(?i:[a-f]+x)",
    }
    for name, p in patterns.items():
        yield f"pattern-{name}", with_(pre_tokenizer=sequence(split(p), byte_level()))
    for behavior in ("Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"):
        for invert in (False, True):
            yield f"split-{behavior}-{invert}", with_(
                pre_tokenizer=sequence(split(r"\s|[.!]", behavior, invert), byte_level()))
        yield f"split-string-{behavior}", with_(pre_tokenizer=sequence(split("a.", behavior, kind="String"), byte_level()))
    for each in (True, False):
        yield f"digits-{each}", with_(
            pre_tokenizer=sequence({"type": "Digits", "individual_digits": each}, byte_level(use_regex=True)))
    yield "replace", with_(normalizer=sequence({"type": "Replace", "pattern": {"Regex": r"\s{2,}|\d+"}, "content": "é "},
                                               {"type": "Replace", "pattern": {"String": "a"}, "content": ""},
                                               {"type": "NFC"}, key="normalizers"))


def small_spaced():
    """Tokens with spaces in them, which only merges as pairs can write."""
    vocab = ["a", "b", " ", "a ", " b", "a b", "ab", "  ", ".", ":", ".:", ".:.:", "<unk>"]
    merges = [["a", " "], ["a ", "b"], [" ", "b"], [" ", " "], ["a", "b"], [".", ":"]]
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
            "pre_tokenizer": None, "post_processor": None, "decoder": {"type": "Fuse"},
            "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                      "vocab": {t: i for i, t in enumerate(vocab)}, "merges": merges}}


def check_json(c, tmp):
    sets = []
    for name in ("llama2", "tinyllama-chat", "llama3"):
        path = SHARED / "data/tokenizers" / name / "tokenizer.json"
        if path.exists():
            sets.append((name, json.loads(path.read_text())))
        else:
            print(f"skipped: {path} is not there")
    if (SHARED / "data/stories260k").exists():
        sets.append(("stories260k", json.loads((SHARED / "data/stories260k/tokenizer.json").read_text())))
    titan = json.loads((ROOT / "tests/fixtures/torchtitan-test/tokenizer.json").read_text())
    sets += [("torchtitan-test", titan), ("spaced", small_spaced())]
    made = list(sets)
    for name, base in sets:
        if name == "llama2":
            made += [(f"llama2-{v}", d) for v, d in variants_of_llama2(base)]
        if name == "llama3":
            made += [(f"llama3-{v}", d) for v, d in variants_of_llama3(base)]
    for name, d in made:
        if not c.wanted(name):
            continue
        # A folder without tokenizer_config.json, which the `tokenizers` library does not read either.
        folder = pathlib.Path(tmp) / name
        folder.mkdir()
        path = folder / "tokenizer.json"
        path.write_text(json.dumps(d, ensure_ascii=False))
        extra = [t["content"] for t in d["added_tokens"]][:40] + ["<think>", "word", "wordy", "a b", "accb", ".:.:"]
        # Decoding a normalized added token gives its normalized form in tokenizers 0.23: not compared.
        decode = not any(t["normalized"] for t in d["added_tokens"])
        # Where unknown characters vanish the library's offsets count as if they had not been there.
        starts = "llama2" in name and "none" not in name and "replace" not in name and "odd" not in name and "normalized" not in name
        c.compare(f"json {name}", path, hf_reference(path, decode, starts), extra)


# ---- SentencePiece ----

def check_spm(c, tmp):
    import sentencepiece as spm
    corpus = pathlib.Path(tmp) / "corpus.txt"
    r = random.Random(5)
    corpus.write_text("\n".join(" ".join(r.choice(WORDS) for _ in range(12)) for _ in range(3000)))
    models = [(n, SHARED / "data" / p / "tokenizer.model") for n, p in
              (("llama2", "tokenizers/llama2"), ("stories260k", "stories260k"))]
    kinds = {"bytes": dict(byte_fallback=True), "unk": {}, "no-prefix": dict(add_dummy_prefix=False),
             "extra": dict(remove_extra_whitespaces=True, byte_fallback=True),
             "user": dict(user_defined_symbols=["<sep>", "naïve", "a" + META, META * 3, "<s"], byte_fallback=True),
             "control": dict(control_symbols=["<a>", "<b>"])}
    for kind, options in kinds.items():
        if not c.wanted(f"spm made-{kind}"):
            continue
        prefix = str(pathlib.Path(tmp) / f"spm-{kind}")
        spm.SentencePieceTrainer.train(input=str(corpus), model_prefix=prefix, model_type="bpe", vocab_size=520,
                                       **{"normalization_rule_name": "identity", "remove_extra_whitespaces": False,
                                          "character_coverage": 0.98, "minloglevel": 2, "num_threads": 1, **options})
        models.append((f"made-{kind}", pathlib.Path(prefix + ".model")))
    for name, model in models:
        if not c.wanted(f"spm {name}"):
            continue
        if not model.exists():
            print(f"skipped: {model} is not there")
            continue
        folder = pathlib.Path(tmp) / f"folder-{name}"
        folder.mkdir()
        path = folder / "tokenizer.model"
        path.write_bytes(model.read_bytes())
        sp = spm.SentencePieceProcessor(model_file=str(model))
        unk = sp.unk_id()

        def reference(flags, text, sp=sp, unk=unk):
            ids = sp.encode(text)
            return ids, None if unk in ids else sp.decode(ids), None

        # Special tokens in the text are no part of SentencePiece: only flags 0.
        c.compare(f"spm {name}", path, reference, ["<s>", "</s>", "<sep>", "<a>", "naïve"], (0,))


# ---- tiktoken ----

def check_tiktoken(c, tmp):
    import tiktoken
    for name, path in (("torchtune", ROOT / "tests/fixtures/torchtune-test/tiktoken_small.model"),
                       ("llama3", SHARED / "data/tokenizers/llama3/tokenizer.model")):
        if not c.wanted(f"tiktoken {name}"):
            continue
        if not path.exists():
            print(f"skipped: {path} is not there")
            continue
        ranks = {base64.b64decode(a): int(b) for a, b in (line.split() for line in path.read_text().splitlines() if line)}
        specials = {}
        if name == "llama3":
            config = json.loads((path.parent / "tokenizer_config.json").read_text())
            specials = {t["content"]: int(i) for i, t in config["added_tokens_decoder"].items()}
        enc = tiktoken.Encoding(name, pat_str=LLAMA3, mergeable_ranks=ranks, special_tokens=specials)

        def reference(flags, text, enc=enc):
            ids = enc.encode(text, allowed_special="all" if flags & SPECIALS else set(), disallowed_special=())
            return ids, enc.decode(ids), None

        c.compare(f"tiktoken {name}", path, reference, list(specials)[:40], longs=False)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("pipe")
    ap.add_argument("--cases", type=int, default=2000)
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--only", default="")
    c = Checker(ap.parse_args())
    with tempfile.TemporaryDirectory() as tmp:
        for package, check in (("tokenizers", check_json), ("sentencepiece", check_spm), ("tiktoken", check_tiktoken)):
            try:
                __import__(package)
            except ImportError:
                print(f"skipped: no package {package}")
                continue
            check(c, tmp)
    print(f"{c.total} cases, {c.failed} differ")
    return 1 if c.failed or not c.total else 0


if __name__ == "__main__":
    sys.exit(main())
