#!/usr/bin/env python3
"""Fails unless the quick start's files are what their scripts make, byte for byte, and are fit for measuring:
no dialogue in both parts, turns and fields as promised, summaries that no first turn gives away, and a tokenizer
that gives every text back."""
import json
import pathlib
import sys

import make_quickstart
import make_tokenizer

DATA = pathlib.Path(__file__).resolve().parent.parent / "configs/quickstart/data"


def rows(name):
    return [json.loads(line) for line in open(DATA / name, encoding="utf-8")]


def longest_common(a, b):
    """Length of the longest common subsequence."""
    best = [0] * (len(b) + 1)
    for x in a:
        diagonal = 0
        for j, y in enumerate(b, 1):
            diagonal, best[j] = best[j], diagonal + 1 if x == y else max(best[j], best[j - 1])
    return best[-1]


def rouge_l(target, prediction):
    t, p = ("".join(c if c.isalnum() else " " for c in s.lower()).split() for s in (target, prediction))
    return 2 * longest_common(t, p) / (len(t) + len(p))


def problems():
    for folder, made in ((DATA, make_quickstart.files()), (DATA / "tokenizer", make_tokenizer.files(DATA))):
        for name, text in made.items():
            path = folder / name
            if not path.exists() or path.read_bytes() != text.encode():
                yield f"{path}: is not what the script makes; run tools/make_quickstart.py, then tools/make_tokenizer.py"
    train, heldout = rows("train.jsonl"), rows("heldout.jsonl")
    if (len(train), len(heldout)) != (make_quickstart.TRAIN_ROWS, make_quickstart.HELDOUT_ROWS):
        yield f"{len(train)} training and {len(heldout)} held-out rows"
    for field in ("id", "dialogue", "summary"):
        values = [r[field] for r in train + heldout]
        if len(values) != len(set(values)):
            yield f"a {field} stands twice"
    texts = " ".join(r["text"] for r in rows("corpus.jsonl"))
    for r in heldout:
        if r["dialogue"] in texts:
            yield f"{r['id']}: its dialogue stands in the corpus"
    for r in train + heldout:
        turns = r["dialogue"].split("\n")
        if not 3 <= len(turns) <= 6 or "\n" in r["summary"] or any(": " not in t for t in turns):
            yield f"{r['id']}: not 3 to 6 turns with a summary of one line"
    copied = sum(rouge_l(r["summary"], r["dialogue"].split("\n")[0]) for r in heldout) / len(heldout)
    if not copied < 0.35:
        yield f"copying the first turn already gives ROUGE-L {copied:.3f}"
    tokenizer = json.loads((DATA / "tokenizer/tokenizer.json").read_text(encoding="utf-8"))
    pieces = {i: t for t, i in tokenizer["model"]["vocab"].items()}
    byte_of = {c: b for b, c in make_tokenizer.LETTERS.items()}
    for r in heldout:
        ids = make_tokenizer.encode(tokenizer, r["dialogue"])
        if bytes(byte_of[c] for i in ids for c in pieces[i]).decode() != r["dialogue"]:
            yield f"{r['id']}: the tokenizer does not give its dialogue back"


if __name__ == "__main__":
    found = list(problems())
    print(*found, sep="\n")
    sys.exit(1 if found else 0)
