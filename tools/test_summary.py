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
            skips = [f"{test['name']}: {s.strip()}" for s in re.findall(r"\[SKIP\](.*)", text)]
            found = SYNTHESIS.search(text)
            if found:
                _, passing, failing, crashing = map(int, found.groups())
                bad = failing + crashing
                yield passing, bad + (test["result"] not in ("OK", "SKIP") and not bad), skips
            elif test["result"] == "SKIP":
                reason = [s for s in text.splitlines() if "skipped" in s] or ["skipped"]
                yield 0, 0, [f"{test['name']}: {reason[0].strip()}"]
            else:
                yield int(test["result"] in ("OK", "EXPECTEDFAIL")), int(test["result"] not in ("OK", "EXPECTEDFAIL")), []


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
