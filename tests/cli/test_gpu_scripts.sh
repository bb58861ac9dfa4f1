#!/bin/sh
# tools/gpu-tests.sh and gpu-bench.sh on the CPU, a few steps of each: that the scripts which run unattended on a GPU run
# at all, and that a failure shows in their table and exit code.  usage: test_gpu_scripts.sh LORAC ROOT GPU_TESTS
. "$(dirname "$0")/lib.sh"
gpu_tests=$3
command -v python3 >/dev/null || { echo "skipped: no python3 here"; exit 77; }

# a bundle as tools/bundle.sh makes it, but for the copies
mkdir -p "$tmp/bundle/bin"
ln -s "$(realpath "$lorac")" "$tmp/bundle/bin/lorac"
ln -s "$(realpath "$gpu_tests")" "$tmp/bundle/bin/gpu_tests"
echo "export PATH=$tmp/bundle/bin:\$PATH" >"$tmp/bundle/env.sh"
export LORAC_BUNDLE="$tmp/bundle" LORAC_TEST_BACKEND=cpu LORAC_CHECK_STEPS=4

script() # CODE 'PATTERN' ARGS...: tools/gpu-tests.sh must end with CODE and print what matches
{
    code=$1 want=$2
    shift 2
    bash "$root/tools/gpu-tests.sh" "$@" >"$tmp/out" 2>"$tmp/err" </dev/null
    rc=$?
    checks=$((checks + 1))
    [ $rc = "$code" ] || { fail "gpu-tests.sh $*: exit code $rc instead of $code" && cat "$tmp/out" "$tmp/err" >&2; }
    said "gpu-tests.sh $*" "$want"
}

script 0 "*== table*PASS  models fp32: logits*PASS  models fp32: a document packed*PASS  packed: llama3-d64 full fp32*PASS  deterministic: llama3-d64 full resumed*PASS  offload: optimizer, full fp32*PASS  offload: optimizer+params, lora fp32*PASS  plan: tiny LoRA, dense*PASS  plan: tiny full, recompute, packed*, 0 failed, * skipped in *" \
    "$tmp/logs" models packed deterministic offload plan
[ -s "$tmp/logs/table.txt" ] && [ -s "$tmp/logs/models-golden-fp32.log" ] || fail "no table or log in the folder"
script 2 "*" "$tmp/logs" no_such_section
LORAC_TEST_BESIDE=x script 2 "*" "$tmp/logs" plan
LORAC_TEST_BESIDE=3 script 0 "*== decode*== plan*== table*PASS  plan: tiny full, recompute, packed*0 failed, * skipped in *" \
    "$tmp/shared" plan decode nvtx
LORAC_TEST_GPUS=2 script 0 "*== table*PASS  plan: tiny full, recompute, packed*0 failed, 2 skipped in *" "$tmp/beside" nvtx plan parity_bf16

# a program that fails must fail the whole
rm "$tmp/bundle/bin/gpu_tests"
printf '#!/bin/sh\necho "1 passed, 1 failed"\nexit 1\n' >"$tmp/bundle/bin/gpu_tests"
chmod +x "$tmp/bundle/bin/gpu_tests"
script 1 "*FAIL  models fp32: logits*2 failed*" "$tmp/logs" models

checks=$((checks + 1))
bash "$root/tools/gpu-bench.sh" --device cpu --seconds 0 --out "$tmp/bench.jsonl" tiny-lora tiny-full start files train kernels matrix >"$tmp/out" 2>"$tmp/err" ||
    { fail "gpu-bench.sh: exit code $?" && cat "$tmp/out" "$tmp/err" >&2; }
said "the table of the bench" "*tiny-lora *the same*tiny-lora-packed *tiny-full *start-cold *start-warm *files-warm *kernels *matrix: *recompute full *results: *"
checks=$((checks + 1))
[ "$(wc -l <"$tmp/bench.jsonl")" -ge 10 ] && grep -q "of a copy" "$tmp/bench.jsonl.txt" || fail "gpu-bench.sh: lines or the kernels' table are missing"

# several ranks: in small, those sections that take seconds
bash "$root/tools/gpu-ranks.sh" "$tmp/ranks" deaths resume bench >"$tmp/out" 2>"$tmp/err"
rc=$?
checks=$((checks + 1))
[ $rc = 0 ] || { fail "gpu-ranks.sh: exit code $rc" && cat "$tmp/out" "$tmp/err" >&2; }
said "the table of ranks" "*== table*PASS  deaths: rank 1 killed*PASS  deaths: rank 1 stands still*PASS  resume: saved on 2, on 1*PASS  bench 8b-full-zero3 on 2* exposed_s * alone_s *, 0 failed, 0 skipped in *"
finish
