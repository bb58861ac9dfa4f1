#!/usr/bin/env python3
"""Writes data/nfc_tables.h from Python's unicodedata: what canonical composition (NFC) needs.

    python3 tools/make_nfc_tables.py > data/nfc_tables.h
"""
import sys
import unicodedata as u

LAST = 0x110000
SCALARS = [c for c in range(LAST) if not 0xD800 <= c < 0xE000]
HANGUL = range(0xAC00, 0xAC00 + 11172)  # composed and decomposed by arithmetic


def canonical(c):
    """The canonical decomposition mapping of one step, as a list of code points."""
    d = u.decomposition(chr(c))
    return [] if not d or d.startswith("<") else [int(x, 16) for x in d.split()]


def ranges(pairs):
    """(code point, value) in order -> [first, last, value] runs."""
    out = []
    for c, v in pairs:
        if out and out[-1][1] == c - 1 and out[-1][2] == v:
            out[-1][1] = c
        else:
            out.append([c, c, v])
    return out


def rows(items, per_line):
    for i in range(0, len(items), per_line):
        print("    " + " ".join(items[i:i + per_line]))


def main():
    decomps = [(c, canonical(c)) for c in SCALARS if c not in HANGUL and canonical(c)]
    composed = sorted((d[0], d[1], c) for c, d in decomps
                      if len(d) == 2 and u.normalize("NFC", "".join(map(chr, d))) == chr(c))
    second = {b for _, b, _ in composed} | set(range(0x1161, 0x1176)) | set(range(0x11A8, 0x11C3))
    changes = {c for c in SCALARS if u.normalize("NFC", chr(c)) != chr(c)}
    maybe = ranges((c, 0) for c in SCALARS if u.combining(chr(c)) or c in second or c in changes)
    classes = ranges((c, u.combining(chr(c))) for c in SCALARS if u.combining(chr(c)))

    print(f"/* Written by tools/make_nfc_tables.py from Unicode {u.unidata_version}.  Do not edit. */")
    print("#pragma once\n\n#include <stdint.h>\n")
    print("/* clang-format off */")
    print("/* Characters that text in NFC may not have, or may have only in places: [first, last]. */")
    print("static const uint32_t nfc_maybe[][2] = {")
    rows([f"{{0x{a:X}, 0x{b:X}}}," for a, b, _ in maybe], 5)
    print("};\n\n/* Canonical combining classes other than 0. */")
    print("static const struct { uint32_t first, last; uint8_t ccc; } nfc_classes[] = {")
    rows([f"{{0x{a:X}, 0x{b:X}, {v}}}," for a, b, v in classes], 5)
    print("};\n\n/* One step of canonical decomposition; b is 0 where it is a single character. */")
    print("static const struct { uint32_t cp, a, b; } nfc_decompositions[] = {")
    rows([f"{{0x{c:X}, 0x{d[0]:X}, 0x{d[1] if len(d) > 1 else 0:X}}}," for c, d in decomps], 4)
    print("};\n\n/* a followed by b composes to cp; sorted by (a, b). */")
    print("static const struct { uint32_t a, b, cp; } nfc_compositions[] = {")
    rows([f"{{0x{a:X}, 0x{b:X}, 0x{c:X}}}," for a, b, c in composed], 4)
    print("};\n/* clang-format on */")
    return 0


if __name__ == "__main__":
    sys.exit(main())
