#!/usr/bin/env python3
"""Trains the quick start's tokenizer on its texts and writes configs/quickstart/data/tokenizer/: a byte-level BPE
in Hugging Face's tokenizer.json with Llama 3's pre-tokenisation and its BOS template.

The texts are ASCII, so that Python's `re` can stand in for the regular expression with Unicode classes.
`--verify` (needs the package tokenizers) encodes every text with the written file and with encode() below.
"""
import argparse
import collections
import json
import pathlib
import re
import sys

VOCABULARY = 1024  # with the special tokens
BOS, EOS, PAD = SPECIALS = ["<|begin_of_text|>", "<|end_of_text|>", "<|pad|>"]
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PIECES = re.compile(LLAMA3.replace(r"[^\s\p{L}\p{N}]", "[^\\sA-Za-z0-9]").replace(r"\p{L}\p{N}", "A-Za-z0-9")
                    .replace(r"\p{L}", "[A-Za-z]").replace(r"\p{N}", "[0-9]"))
PROMPT = "Summarize this dialog:\n{dialogue}\n---\nSummary:\n"


def byte_letters():
    """byte -> the printable character that stands for it"""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [b for b in range(256) if b not in plain]
    return {**{b: chr(b) for b in plain}, **{b: chr(0x100 + i) for i, b in enumerate(rest)}}


LETTERS = byte_letters()


def pieces(text):
    assert text.isascii(), text
    for piece in PIECES.findall(text):
        yield tuple(LETTERS[b] for b in piece.encode())


def merged(word, pair):
    out, i = [], 0
    while i < len(word):
        if word[i:i + 2] == pair:
            out.append(word[i] + word[i + 1])
            i += 2
        else:
            out.append(word[i])
            i += 1
    return tuple(out)


def train(texts, n_merges):
    """The most frequent pair first; of equals the one that sorts first."""
    words = collections.Counter(p for t in texts for p in pieces(t))
    merges = []
    while len(merges) < n_merges:
        pairs = collections.Counter()
        for word, n in words.items():
            for pair in zip(word, word[1:]):
                pairs[pair] += n
        if not pairs:
            break
        best = min(pairs, key=lambda p: (-pairs[p], p))
        merges.append(best)
        words = collections.Counter({merged(w, best): n for w, n in words.items()})
    return merges


def tokenizer_json(merges):
    tokens = [LETTERS[b] for b in range(256)] + [a + b for a, b in merges]
    vocab = {t: i for i, t in enumerate(dict.fromkeys(tokens))}
    special = {t: len(vocab) + i for i, t in enumerate(SPECIALS)}
    flags = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
    byte_level = dict(type="ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=False)
    sequence = lambda name, i: {"Sequence": {"id": name, "type_id": i}}
    bos = lambda i: {"SpecialToken": {"id": BOS, "type_id": i}}
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [dict(id=i, content=t, **flags) for t, i in special.items()],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": LLAMA3}, "behavior": "Isolated", "invert": False}, byte_level]},
        "post_processor": {"type": "Sequence", "processors": [byte_level, {
            "type": "TemplateProcessing", "single": [bos(0), sequence("A", 0)],
            "pair": [bos(0), sequence("A", 0), bos(1), sequence("B", 1)],
            "special_tokens": {BOS: {"id": BOS, "ids": [special[BOS]], "tokens": [BOS]}}}]},
        "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": True,
                  "vocab": vocab, "merges": [list(m) for m in merges]},
    }


TOKENIZER_CONFIG = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": BOS, "eos_token": EOS, "pad_token": PAD,
                    "clean_up_tokenization_spaces": False, "model_max_length": 512}


def texts(folder):
    """What the tokenizer is trained on: corpus and training rows, not the held-out ones."""
    for line in open(folder / "corpus.jsonl", encoding="utf-8"):
        yield json.loads(line)["text"]
    for line in open(folder / "train.jsonl", encoding="utf-8"):
        row = json.loads(line)
        yield PROMPT.format(**row)
        yield row["summary"]


def encode(tokenizer, text):
    """Ids by the plain algorithm: in each piece the merge of lowest rank, leftmost first."""
    vocab, ranks = tokenizer["model"]["vocab"], {tuple(m): i for i, m in enumerate(tokenizer["model"]["merges"])}
    ids = []
    for word in pieces(text):
        while "".join(word) not in vocab:
            pairs = [p for p in zip(word, word[1:]) if p in ranks]
            if not pairs:
                break
            word = merged(word, min(pairs, key=ranks.get))
        else:
            word = ("".join(word),)
        ids += [vocab[t] for t in word]
    return ids


def verify(folder):
    from tokenizers import Tokenizer
    path = folder / "tokenizer/tokenizer.json"
    theirs, ours = Tokenizer.from_file(str(path)), json.loads(path.read_text(encoding="utf-8"))
    n = 0
    everything = [*texts(folder), *(json.loads(line)["dialogue"] for line in open(folder / "heldout.jsonl", encoding="utf-8"))]
    for text in everything:
        ids = encode(ours, text)
        n += len(ids)
        assert theirs.encode(text, add_special_tokens=False).ids == ids, text
        assert theirs.encode(text).ids == [ours["added_tokens"][0]["id"], *ids], text
        assert theirs.decode(ids) == text, text
    print(f"{len(everything)} texts, {n} tokens: the package tokenizers gives the same ids")


def files(folder):
    """name -> text of every file"""
    tokenizer = tokenizer_json(train(texts(folder), VOCABULARY - 256 - len(SPECIALS)))
    dump = lambda value: json.dumps(value, ensure_ascii=False, indent=1) + "\n"
    return {"tokenizer.json": dump(tokenizer), "tokenizer_config.json": dump(TOKENIZER_CONFIG)}


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    root = pathlib.Path(__file__).resolve().parent.parent
    ap.add_argument("--data", type=pathlib.Path, default=root / "configs/quickstart/data")
    ap.add_argument("--verify", action="store_true")
    args = ap.parse_args()
    if args.verify:
        return verify(args.data)
    out = args.data / "tokenizer"
    out.mkdir(parents=True, exist_ok=True)
    for name, text in files(args.data).items():
        (out / name).write_bytes(text.encode())


if __name__ == "__main__":
    sys.exit(main())
