#!/usr/bin/env python3
"""Writes tests/fixtures/{rouge.jsonl,stems.tsv,sampler.json}: what rouge_score, its Porter stemmer and
transformers' logits processors answer on inputs of our own making.

Run by hand where rouge_score, nltk, torch and transformers are installed; the product needs none of them.
Deterministic: the same packages give the same bytes.
"""
import argparse
import json
import pathlib
import random
import struct

STEMS = """act add adopt agree allow amuse angl apolog argu arriv bake ban bat beg bless blow boil bond bor brag bus
    buzz call cancel care cat cav chang chat clap clos conflat control cop cours cri cry cycl danc dar decid defend defin
    depend deriv destroy differ dig digit dry dy eas edit electr employ enjoy equal even explor fail fall fan feed fil fish
    fit fix fizz fly form free fuss gallop geolog glad grat gyroscop hap hesit hiss hop hope hors humbl inn irrit jog joy
    just kind kiss know lab lie lim list live log loos lov lux mad mak map marin mat meet meter micro mill mis model mov
    music nation new nois normal observ occur offer open oper organ pac pann pass past pay pleas plot ply pony precis
    predic prefer prob quick radic rat reason refer rel replac resolv revis rhythm rob rol rub run sad sag say seal sensib
    sensit serv shy siz sky slip snow sol speak spy squar star stem step stop stud sub sun syllab tabl tan teach theor ti
    tim toy trad tri trop troubl try ty use vac val vary vib vietnam vi vot wag wait walk wash wish wonder work wrap yell
    zeal zip""".split()
SUFFIXES = [""] + """s es ies ied y ing ed eed er ers est able ible al ally ance ant ate ated ating ation ational ator
    eli ence ent ently er ful fulness fulli full hood ic ical icate iciti ion ious ism ist iti ity ive ively iveness
    ization izer ize ized izing less lessness li ly logi logy ment ments ness ous ously ousli ousness tional tionally abli
    bli alli alism aliti ative biliti iviti ement eat sses ssing ss us ees ying yed yer e ee le ll zz tt""".split()
IRREGULAR = """sky skies dying lying tying news innings inning outing outings canning cannings howe proceed exceed
    succeed proceeds exceeded succeeding dies died ties tied lies pies flies flied tries spied a i is as be by my say the
    oed bled sing hissing fizzed falling filing bleed agreed plastered motoring conflated troubled sized happy enjoy
    relational conditional rational valenci hesitanci digitizer conformabli radicalli differentli vileli analogousli
    vietnamization predication operator feudalism decisiveness hopefulness callousness formaliti sensitiviti
    sensibiliti triplicate formative formalize electriciti electrical hopeful goodness revival allowance inference
    airliner gyroscopic adjustable defensible irritant replacement adjustment dependent adoption homologou communism
    activate angulariti homologous effective bowdlerize probate rate cease controll roll generalizations oscillators
    geology geologi theology apology logi alogi bli fulli 2nd 3rds x2ing 1990s 4x4ies abc123ing""".split()

NAMES = ["Mira", "Tobias", "Anouk", "Jonas", "Priya", "Oskar", "Leila", "Henrik"]
PLACES = ["the harbour", "the library", "the old mill", "the bakery", "the station", "the garden"]
VERBS = ["meets", "calls", "visits", "helps", "is waiting for", "was looking for", "has invited", "forgot"]
THINGS = ["the tickets", "a blue bicycle", "two cakes", "the meeting notes", "her keys", "the rehearsals"]
TIMES = ["on Monday", "at 7 pm", "tomorrow", "in the morning", "next week", "at 10:30"]
LINKS = ["with", "about", "because of"]
WORDS = """the a of to and in is was running runs runner quickly quick happily happiness organizing organization
    nations national studies studied studying city cities meetings meeting plays played 7 30 monday harbour""".split()


def f32(x):
    """x rounded to float32, so that a reader in C and one in Python see the same number."""
    return struct.unpack("f", struct.pack("f", x))[0]


def sentence(rng):
    pick = rng.choice
    return f"{pick(NAMES)} {pick(VERBS)} {pick(NAMES)} {pick(LINKS)} {pick(THINGS)} at {pick(PLACES)} {pick(TIMES)}."


def damaged(rng, text):
    """A text that shares some, but not all, of its words with `text`."""
    words = text.split()
    for _ in range(rng.randint(1, max(1, len(words) // 2))):
        i = rng.randrange(len(words))
        what = rng.random()
        if what < 0.3 and len(words) > 1:
            del words[i]
        elif what < 0.6:
            words[i] = rng.choice(WORDS)
        elif what < 0.8:
            words.insert(i, rng.choice(WORDS))
        else:
            j = rng.randrange(len(words))
            words[i], words[j] = words[j], words[i]
    return " ".join(words)


def word_salad(rng, words):
    """One to three lines of few different words: many ties in the longest common subsequence."""
    return "\n".join(" ".join(rng.choice(words) for _ in range(rng.randint(1, 9))) for _ in range(rng.randint(1, 3)))


ODD_PAIRS = [
    ("", ""), ("", "a word"), ("a word", ""), ("...", "!?"), (" \n\t ", "text"), ("text", "\n\n"),
    ("testing one two", "testing"), ("testing one two", "testing one"), ("testing one two", "testing two"),
    ("w1 w2 w3 w4 w5", "w1 w2 w6 w7 w8\nw1 w3 w8 w9 w5"),
    ("a a a b", "a a c a a"), ("one", "one one one one"), ("Don't stop!", "dont stop"), ("Don't stop!", "don t stop"),
    ("It's 7 o'clock.", "its 7 oclock"), ("x_y-z", "x y z"), ("snake_case_word", "snake case word"),
    ("CAPITALS and Small", "capitals AND small"), ("caf\u00e9 na\u00efve r\u00e9sum\u00e9", "caf na ve r sum"),
    ("\u65e5\u672c\u8a9e", "\u65e5\u672c\u8a9e"), ("\u65e5\u672c 7 \u8a9e", "7"), ("\U0001f600 smile", "smile \U0001f600"),
    # the only two characters above ASCII whose lower case has an ASCII letter in it
    ("\u212aelvin 300 \u212a", "kelvin 300 k"), ("\u0130stanbul", "i stanbul"), ("stra\u00dfe STRASSE", "stra e strasse"),
    ("\uff11\uff12\uff13", "123"), ("\u0661\u0662 12", "12"), ("zero\u200bwidth", "zero width"),
    ("no\u00a0break", "no break"), ("line\r\nbreak", "line break"), ("tab\tand\x0bother\x0cspaces", "tab and other spaces"),
    ("1,000.50", "1 000 50"), ("first\nsecond\n\nthird", "third\nsecond\nfirst"),
    ("first line\nsecond line", "second line first line"), ("a b c d e f g", "g f e d c b a"),
    ("the cat sat\non the mat", "the cat\nsat on\nthe mat"), ("same same same\nsame", "same\nsame same"),
    ("running runs ran", "run running runner"), ("skies dying news", "sky die new"),
    ("happily ever after", "happy ever after"), ("flies died ties", "fly die tie"), ("the the the", "the"),
]


def pairs(rng):
    out = list(ODD_PAIRS)
    for _ in range(120):
        t = sentence(rng)
        out.append((t, damaged(rng, t)))
    for _ in range(60):
        out.append((sentence(rng), sentence(rng)))
    for _ in range(80):  # several lines: where rougeL and rougeLsum part
        t = "\n".join(sentence(rng) for _ in range(rng.randint(1, 4)))
        p = [damaged(rng, s) for s in t.split("\n") if rng.random() < 0.8] or [sentence(rng)]
        rng.shuffle(p)
        out.append((t, "\n".join(p)))
    for _ in range(120):
        few = rng.sample(WORDS, rng.randint(2, 5))
        out.append((word_salad(rng, few), word_salad(rng, few)))
    return out


def make_rouge(folder):
    from rouge_score import rouge_scorer
    kinds = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    scorers = {"plain": rouge_scorer.RougeScorer(kinds, use_stemmer=False),
               "stemmed": rouge_scorer.RougeScorer(kinds, use_stemmer=True)}
    with open(folder / "rouge.jsonl", "w", encoding="utf-8") as f:
        for target, prediction in pairs(random.Random("lorac rouge")):
            row = {"target": target, "prediction": prediction}
            for name, scorer in scorers.items():
                got = scorer.score(target, prediction)
                row[name] = {k: [got[k].precision, got[k].recall, got[k].fmeasure] for k in kinds}
            f.write(json.dumps(row, ensure_ascii=False) + "\n")


def make_stems(folder):
    from nltk.stem import porter
    stemmer = porter.PorterStemmer()
    rng = random.Random("lorac stems")
    words = set(IRREGULAR)
    for stem in STEMS:
        for suffix in rng.sample(SUFFIXES, 14):
            words.add(stem + suffix)
            words.add(stem + stem[-1] + suffix)
    for _ in range(1500):  # letters at random with an ending: for the measure and the *o and *d conditions
        body = "".join(rng.choice("aeiouy" if rng.random() < 0.45 else "bcdfghklmnprstvwxyz")
                       for _ in range(rng.randint(1, 5)))
        words.add(body + rng.choice(SUFFIXES))
    with open(folder / "stems.tsv", "w", encoding="utf-8") as f:
        for w in sorted(words):
            f.write(f"{w}\t{stemmer.stem(w)}\n")


def make_sampler(folder):
    import torch
    from transformers import (RepetitionPenaltyLogitsProcessor, TemperatureLogitsWarper, TopKLogitsWarper,
                              TopPLogitsWarper)
    rng = random.Random("lorac sampler")
    settings = [dict(temperature=t, top_k=k, top_p=p, repetition_penalty=r)
                for t in (1.0, 0.25, 0.7, 1.8) for k in (0, 1, 3, 50) for p in (1.0, 0.9, 0.5, 0.05) for r in (1.0, 1.3)]
    rng.shuffle(settings)
    settings = settings[:90] + [dict(temperature=1.0, top_k=0, top_p=1.0, repetition_penalty=r) for r in (0.8, 1.1, 2.5)]
    cases = []
    for i, s in enumerate(settings):
        n = rng.choice([2, 5, 12, 40])
        logits = [f32(rng.gauss(0, 3)) for _ in range(n)]
        # Ties, also at the edge of top-k.  Not with top-p: which of two equal tokens it keeps is the
        # order of an unstable sort.
        if s["top_p"] == 1.0 and i % 3 == 0:
            logits = [f32(round(x) / 2) for x in logits]
        previous = [rng.randrange(n) for _ in range(rng.choice([0, 1, 4, 20]))]
        ids = torch.tensor([previous], dtype=torch.long)
        scores = torch.tensor([logits], dtype=torch.float32)
        # transformers' order; a processor at its neutral value is not made at all
        if s["repetition_penalty"] != 1.0:
            scores = RepetitionPenaltyLogitsProcessor(s["repetition_penalty"])(ids, scores)
        if s["temperature"] != 1.0:
            scores = TemperatureLogitsWarper(s["temperature"])(ids, scores)
        if s["top_k"] != 0:
            scores = TopKLogitsWarper(s["top_k"])(ids, scores)
        if s["top_p"] < 1.0:
            scores = TopPLogitsWarper(s["top_p"])(ids, scores)
        probs = torch.softmax(scores.double(), -1)[0].tolist()
        cases.append({**s, "previous": previous, "logits": logits,
                      "scores": [None if x == float("-inf") else x for x in scores[0].tolist()], "probs": probs})
    with open(folder / "sampler.json", "w", encoding="utf-8") as f:
        f.write("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]\n")


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent.parent / "tests/fixtures")
    args = ap.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    make_rouge(args.out)
    make_stems(args.out)
    make_sampler(args.out)


if __name__ == "__main__":
    main()
