#!/usr/bin/env bash
# The training steps of the project's table on this GPU, from a bundle (tools/bundle.sh): one line of JSON each into
# OUT, the tables to the screen.  Every step is beside its floor and its planned peak.
#   tools/gpu-bench.sh [OUT [SECONDS [NAMES...]]]      default: bench/results/gpu.jsonl, 10 seconds each, all
set -u
root=$(cd "$(dirname "$0")/.." && pwd)
[ -f "$root/bundle/env.sh" ] && . "$root/bundle/env.sh"
lorac=$(command -v lorac || echo "$root/build/cli/lorac")
out=${1:-$root/bench/results/gpu.jsonl}
seconds=${2:-10}
[ $# -gt 2 ] && shift 2 || shift $#
wanted=" $* "
mkdir -p "$(dirname "$out")"
attention=q_proj,k_proj,v_proj,o_proj
failed=0

# bench NAME FLAGS...
bench()
{
    name=$1
    shift
    case $wanted in "  " | *" $name "*) ;; *) return ;; esac
    echo "== $name"
    if line=$("$lorac" bench --json --seconds "$seconds" "$@"); then
        printf '{"name": "%s", %s\n' "$name" "${line#\{}" | tee -a "$out" | sed 's/, /\n  /g' |
            grep -E '"(step_s|tokens_per_s|tflops_with|mfu_with|floor_s|step_over_floor|first_step_s|peak_bytes|planned_bytes|driver_bytes|loss)'
    else
        echo "FAILED $name"
        failed=$((failed + 1))
    fi
}

bench 8b-lora --model llama-3-8b --micro 4
bench 8b-lora-attention --model llama-3-8b --micro 4 --targets $attention
bench 8b-lora-micro1 --model llama-3-8b --micro 1
bench 8b-lora-recompute --model llama-3-8b --micro 4 --recompute full
bench 8b-lora-kernels --model llama-3-8b --micro 4 --kernels
bench 8b-full --model llama-3-8b --micro 1 --method full --recompute full
bench 1b-full --model llama-3.2-1b --micro 4 --method full
bench 7b-lora --model llama-2-7b --seq 2048 --micro 8
bench 8b-lora-2048 --model llama-3-8b --seq 2048 --micro 2 --recompute full
bench 8b-qlora --model llama-3-8b --seq 2048 --micro 2 --recompute full --method qlora
bench 8b-qlora-profile --model llama-3-8b --seq 2048 --micro 2 --recompute full --method qlora --kernels
bench 7b-int8 --model llama-2-7b --seq 2048 --micro 1 --recompute full --method qlora --quantize int8
bench 7b-int8-micro7 --model llama-2-7b --seq 2048 --micro 7 --recompute full --method qlora --quantize int8
bench 70b-qlora --model llama-2-70b --seq 2048 --micro 1 --recompute full --method qlora
echo "results: $out"
[ $failed = 0 ]
