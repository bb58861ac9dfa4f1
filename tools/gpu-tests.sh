#!/usr/bin/env bash
# Everything that a GPU can prove of lorac, unattended, from a bundle (tools/bundle.sh) on a machine with a GPU and a
# python3 (hf: with torch, transformers, peft, safetensors).  Logs go to OUT; a table of PASS, FAIL and SKIP lines comes
# last.  Exit code 1 when a line says FAIL.
#
#   tools/gpu-tests.sh OUT [SECTION...]      default: all of them, about ten minutes on an H200; where there are several GPUs
#                                            (or as many as LORAC_TEST_GPUS says) sections run side by side, and as
#                                            many on a GPU as LORAC_TEST_BESIDE says
#
#   parity_products parity_attention parity_bf16: every kernel in bf16 against the CPU's fp32
#   kernels    every kernel and op in fp32 against references in double
#   models     logits, loss, gradients of every fixture against PyTorch's, fp32 and bf16: head widths 64 and 128, dense
#              and packed, fails when bf16 attention did not go through cuDNN; a document's loss packed and alone
#   decode     greedy tokens of the fixtures (transformers') and of stories260K (llama2.c's), fp32; tokens one by one against the
#              whole text's logits, recorded and not, plain, nf4 and int8, fp32 and bf16
#   golden     20 steps of every fixture against transformers' losses, fp32 and bf16
#   curves packed deterministic attention offload plan   see tools/gpu_checks.py
#   hf         folders and adapters written by way of the GPU load in transformers and PEFT: the same logits
#   nvtx       Nsight Compute finds an op's kernels by the op's range
#   sanitizer  compute-sanitizer memcheck and racecheck over the kernel tests (LORAC_SANITIZERS: one of them)
#
# Where there is no folder bundle, bundle.tar.gz is unpacked first.
set -u
root=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=tools/gpu_table.sh
. "$root/tools/gpu_table.sh"
table_begin "parity_products parity_attention parity_bf16 sanitizer kernels curves offload golden hf plan models packed deterministic decode attention nvtx" "$@"
export LORAC_SOURCE_ROOT=$root

# one LOG SECONDS WHAT COMMAND...: a line by the exit code, 77 for skipped; the log's last line beside it
one()
{
    local log=$out/$1.log limit=$2 what=$3 began=$SECONDS rc last
    shift 3
    timeout "$limit" "$@" > "$log" 2>&1 < /dev/null
    rc=$?
    last="$(grep -v '^$' "$log" | tail -n 1 | cut -c1-90)"
    case $rc in
    0) line PASS "$what" "$last" ;;
    77) line SKIP "$what" "$last" ;;
    124) line FAIL "$what" "not done in $limit s" ;;
    *) line FAIL "$what" "$last (exit $rc, ${log#"$out"/})" ;;
    esac
    echo "$((SECONDS - began)) s  $what" >> "$out/times.txt"
}

precisions() # what the device computes in
{
    if [ "$device" = cuda ]; then echo fp32 bf16; else echo fp32; fi
}

kernels()
{
    local suite
    for suite in $(gpu_tests --list | grep -vE '^(golden|packed|parity_.*|generate|stories|token_pass)$'); do
        one "kernels-$suite" 120 "kernels fp32: $suite" gpu_tests "$suite"
    done
}

parity() # SUITE
{
    if [ "$device" != cuda ]; then
        line SKIP "kernels bf16 against fp32: $1" "needs a GPU"
    else
        one "kernels-$1" 240 "kernels bf16 against fp32: $1" gpu_tests "$1"
    fi
}
parity_products() { parity parity_products; }
parity_attention() { parity parity_attention; } # fails when the library was not taken
parity_bf16() { parity parity_bf16; }

models()
{
    local p
    for p in $(precisions); do
        LORAC_TEST_PRECISION=$p one "models-golden-$p" 180 "models $p: logits, loss, gradients" gpu_tests golden
        LORAC_TEST_PRECISION=$p one "models-packed-$p" 120 "models $p: a document packed and alone" gpu_tests packed
    done
}

decode()
{
    local p
    LORAC_TEST_PRECISION=fp32 one decode-generate 180 "decode fp32: transformers' greedy tokens" gpu_tests generate
    LORAC_TEST_PRECISION=fp32 one decode-stories 120 "decode fp32: stories260K's greedy text" gpu_tests stories
    for p in $(precisions); do
        LORAC_TEST_PRECISION=$p one "decode-tokens-$p" 180 "decode $p: one by one as at once; recorded" gpu_tests token_pass \
            generate.recorded_passes_change_nothing
    done
}

golden()
{
    one golden 300 "golden: 20 steps of every fixture" python3 "$root/tools/gpu_golden.py" --device "$device"
}

checks() # NAME: tools/gpu_checks.py prints its own lines
{
    local began=$SECONDS
    timeout 300 python3 "$root/tools/gpu_checks.py" --device "$device" --steps "${LORAC_CHECK_STEPS:-200}" "$1" \
        2> "$out/$1.err" < /dev/null | tee "$out/$1.log" | tee -a "$table"
    [ "${PIPESTATUS[0]}" -le 1 ] || line FAIL "$1" "$(tail -n 1 "$out/$1.err")"
    echo "$((SECONDS - began)) s  $1" >> "$out/times.txt"
}
curves() { checks curves; }
packed() { checks packed; }
attention() { checks attention; }
deterministic() { checks deterministic; }
offload() { checks offload; }
plan() { checks plan; }

hf()
{
    local p
    for p in $(precisions); do
        LORAC_TEST_PRECISION=$p one "hf-$p" 200 "hf: transformers and PEFT load what was written, $p" \
            python3 "$root/tools/check_peft.py" "$bundle"
    done
}

nvtx()
{
    local found log=$out/nvtx.log
    if [ "$device" != cuda ] || ! command -v ncu > /dev/null; then
        line SKIP "nvtx: ranges by op" "needs a GPU and ncu"
        return
    fi
    timeout 120 ncu --clock-control none --nvtx --nvtx-include "rmsnorm/" --section LaunchStats \
        lorac bench --model tiny --seq 64 --rows full --seconds 0 --steps 1 > "$log" 2>&1 < /dev/null
    if grep -q 'ERR_NVGPUCTRPERM\|LibraryNotLoaded' "$log"; then
        line SKIP "nvtx: ranges by op" "ncu does not support this machine"
        return
    fi
    # the headings of what was profiled: all of them, and those of the op
    found=$(grep -cE '^  [a-z_]+.*Context [0-9]+, Stream [0-9]+' "$log")
    if [ "$found" -gt 0 ] && [ "$(grep -cE '^  .*rmsnorm_[a-z_]*kernel.*Context' "$log")" = "$found" ]; then
        line PASS "nvtx: ranges by op" "$found kernels in ranges 'rmsnorm', all of rmsnorm.cu"
    else
        line FAIL "nvtx: ranges by op" "$found kernels, see nvtx.log"
    fi
}

# Small shapes under the tool: the kernels' suites in fp32, and bf16's without the large products.  memcheck is told where
# each tensor ends, as all of them lie in one allocation.
sanitizer()
{
    local tool tests checked="env LORAC_TEST_TRACKED=1 compute-sanitizer --target-processes all --error-exitcode 9 --tool" program
    program=$(command -v gpu_tests)
    tests="$(gpu_tests --list | grep -E '^kernel_') parity_bf16.rows parity_bf16.split_and_rotate parity_bf16.optimizer_and_sums"
    for tool in ${LORAC_SANITIZERS:-memcheck racecheck}; do
        if ! command -v compute-sanitizer > /dev/null; then
            line SKIP "sanitizer: $tool" "compute-sanitizer is not on this machine"
        elif $checked "$tool" "$program" kernel_swiglu 2>&1 < /dev/null | grep -q 'not supported'; then
            line SKIP "sanitizer: $tool" "compute-sanitizer does not support this machine"
        else
            # shellcheck disable=SC2086 # names of suites
            one "sanitizer-$tool" "${LORAC_SANITIZER_SECONDS:-240}" "sanitizer: $tool" $checked "$tool" "$program" $tests
        fi
    done
}

gpus=${LORAC_TEST_GPUS:-}
[ -n "$gpus" ] || [ -n "${CUDA_VISIBLE_DEVICES:-}" ] || gpus=$(nvidia-smi -L 2> /dev/null | grep -c '^GPU')
[ "${gpus:-0}" -gt 0 ] || gpus=1
case ${LORAC_TEST_BESIDE:-1} in
'' | 0* | *[!0-9]*) echo "LORAC_TEST_BESIDE: sections at a time on a GPU, 1 or more; is '$LORAC_TEST_BESIDE'" >&2; exit 2 ;;
esac
# these three reserve all memory that is free, or compare with it
table_run "$gpus" "${LORAC_TEST_BESIDE:-1}" "offload plan nvtx"
