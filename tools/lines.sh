#!/bin/sh
# Lines of C and CUDA per room, and the longest files: a mirror, not a gate.
set -u
cd "$(dirname "$0")/.." || exit 1
. tools/sources.sh

sources '*.c' '*.h' '*.cu' '*.cuh' | xargs -r wc -l | awk '
    $2 == "total" { next }
    { room = $2; sub("/.*", "", room); lines[room] += $1; files[room]++; all += $1; n++ }
    END {
        printf "%-10s %7s %6s\n", "room", "lines", "files"
        split("base tensor kernels autograd model optim dist data infer trainer cli tests bench tools", order, " ")
        for (i = 1; i in order; i++)
            if (order[i] in lines)
                printf "%-10s %7d %6d\n", order[i], lines[order[i]], files[order[i]]
        printf "%-10s %7d %6d\n", "all", all, n
    }'
echo
echo "longest files"
sources '*.c' '*.h' '*.cu' '*.cuh' | xargs -r wc -l | grep -v ' total$' | sort -rn | head -8
