#!/bin/sh
# Fails when clang-format would change a C or CUDA source; `--fix` changes it.  The style is that of
# version 14 (.clang-format): other versions break lines elsewhere, so without it this is skipped.
set -u
cd "$(dirname "$0")/.." || exit 1
. tools/sources.sh

for tool in "${CLANG_FORMAT:-}" clang-format-14 clang-format; do
    [ -n "$tool" ] && "$tool" --version 2>/dev/null | grep -q 'version 14\.' && break
    tool=
done
if [ -z "$tool" ]; then
    echo "skipped: clang-format 14 is not installed (scripts/install-deps.sh --dev)"
    exit 77
fi
files=$(sources '*.c' '*.h' '*.cu' '*.cuh')
if [ "${1:-}" = --fix ]; then
    echo "$files" | xargs -r "$tool" -i
else
    echo "$files" | xargs -r "$tool" --dry-run -Werror --ferror-limit=3
fi
