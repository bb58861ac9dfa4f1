#!/usr/bin/env python3
"""Sums up what `meson test` left in build folders, test by test (a Criterion program holds many): what was
skipped and why, then as the last line `N passed, N failed, N skipped`.  Fails when a test failed or none ran."""
import collections
import json
import pathlib
import re
import sys

SYNTHESIS = re.compile(r"Synthesis: Tested: (\d+) \| Passing: (\d+) \| Failing: (\d+) \| Crashing: (\d+)")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def results(folder):
    """-> (passed, failed, skip reasons) of each program"""
    with open(pathlib.Path(folder, "meson-logs/testlog.json"), encoding="utf-8") as log:
        for line in log:
            test = json.loads(line)
            text = COLOUR.sub("", test.get("stdout", "") + "\n" + test.get("stderr", ""))
            # a test that skips itself says so in a line of its own
            skips = [f"{test['name']}: {s.strip()}" for s in re.findall(r"^skipped: (.*)", text, re.M)]
            found = SYNTHESIS.search(text)
            if found:
                _, passing, failing, crashing = map(int, found.groups())
                bad = failing + crashing
                yield passing, bad + (test["result"] not in ("OK", "SKIP") and not bad), skips
            elif test["result"] == "SKIP":
                yield 0, 0, skips or [f"{test['name']}: gives no reason"]
            else:
                good = test["result"] in ("OK", "EXPECTEDFAIL")
                yield int(good), int(not good), skips


def main():
    passed = failed = 0
    skipped = collections.Counter()
    for folder in sys.argv[1:]:
        try:
            for ok, bad, skips in results(folder):
                passed, failed = passed + ok, failed + bad
                skipped.update(skips)
        except OSError as error:
            print(f"{folder}: its tests did not run ({error.strerror})")
            failed += 1
    for reason, n in sorted(skipped.items()):
        print(f"skipped {reason}" + (f" ({n} times)" if n > 1 else ""))
    print(f"{passed} passed, {failed} failed, {sum(skipped.values())} skipped")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
