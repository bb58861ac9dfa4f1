#!/usr/bin/env python3
"""Writes tests/fixtures/byte-tokenizer/: a byte-level tokenizer for the golden models of 512 tokens, which have none.

Ids: <unk> 0, <s> 1, </s> 2 (as the models' config.json says), <|im_start|> 3, <|im_end|> 4, then the 256 bytes, then a
few merges.  Standard library only; the same bytes every time.
"""
import argparse
import json
import pathlib

SPECIALS = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
MERGES = [("t", "h"), ("th", "e"), ("a", "n"), ("i", "n"), ("\u0120", "t"), ("\u0120", "a"), ("e", "r")]
CHATML = ("{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + "
          "'\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")


def byte_alphabet():
    """GPT-2's letters for bytes, in the order of the bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    out, extra = [], 0
    for b in range(256):
        out.append(chr(b) if b in printable else chr(256 + extra))
        extra += b not in printable
    return out


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--out", type=pathlib.Path,
                    default=pathlib.Path(__file__).resolve().parent.parent / "tests/fixtures/byte-tokenizer")
    out = ap.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    tokens = SPECIALS + byte_alphabet() + ["".join(m) for m in MERGES]
    bytelevel = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": i, "content": t, "single_word": False, "lstrip": False, "rstrip": False,
                          "normalized": False, "special": True} for i, t in enumerate(SPECIALS)],
        "normalizer": None, "pre_tokenizer": bytelevel, "post_processor": None, "decoder": bytelevel,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": {t: i for i, t in enumerate(tokens)}, "merges": [list(m) for m in MERGES]},
    }
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>",
              "unk_token": "<unk>", "chat_template": CHATML}
    for name, what in (("tokenizer.json", tokenizer), ("tokenizer_config.json", config)):
        (out / name).write_text(json.dumps(what, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
