#!/usr/bin/env bash
# Runs the kernel and op tests on the GPU from a bundle (tools/bundle.sh): the same tests as on the CPU, through another
# column of the table.  One process at a time: each reserves the device's memory.
#   tools/gpu-tests.sh [LOG]
set -u
root=$(cd "$(dirname "$0")/.." && pwd)
. "$root/bundle/env.sh"
export LORAC_SOURCE_ROOT=$root LORAC_TEST_BACKEND=cuda
log=${1:-/dev/stdout}
passed=0 failed=0
for t in "$root"/bundle/tests/test_parity_bf16 "$root"/bundle/tests/test_kernel_* $(for o in attention embedding gather_rows linear linear_lora linear_xent \
    rmsnorm split_rope swiglu; do echo "$root/bundle/tests/test_$o"; done); do
    if timeout 300 "$t" --jobs 1 --verbose=0 > "/tmp/out.$$" 2>&1; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAILED $(basename "$t")"
    fi
    { echo "== $(basename "$t")"; cat "/tmp/out.$$"; } >> "$log"
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
