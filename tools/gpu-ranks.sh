#!/usr/bin/env bash
# What several GPUs can prove of lorac, unattended, from a bundle (tools/bundle.sh) on a machine with one to eight.  Logs go
# to OUT; a table of PASS, FAIL and SKIP lines comes last.  Exit code 1 when a line says FAIL.
#
#   tools/gpu-ranks.sh OUT [SECTION...]      default: all of them, about eight minutes on 4 H200
#
#   comm     the Comm cases: threads on one GPU, NCCL on 2, 4, ... GPUs
#   curves   losses of 1, 2, 4, ... GPUs against one GPU's, every stage, full and LoRA, fp32 and bf16
#   bench    Llama-3-8B, LoRA and full, on 1, 2, 4, ... GPUs: s/step, tokens/s in all, exposed communication, peak
#
# Ranks are started by the environment (RANK, WORLD_SIZE, ...); with LORAC_MPIRUN=1 by mpirun, which must be of the Open MPI
# that the bundle was built with.
# LORAC_TEST_BACKEND=cpu tries the first two without a GPU; LORAC_BENCH_SECONDS: of steps for each line (10).
set -u
root=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=tools/gpu_table.sh
. "$root/tools/gpu_table.sh"
table_begin "comm curves bench" "$@"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
seconds=${LORAC_BENCH_SECONDS:-10}
if [ "$device" = cuda ]; then gpus=$(nvidia-smi -L | grep -c '^GPU'); else gpus=4; fi
counts=$(for n in 2 4 8; do [ $n -le "$gpus" ] && echo $n; done)
port=$((20000 + RANDOM % 12000))

# ranks N COMMAND...: rank 0's output; the worst exit code
ranks()
{
    local n=$1 pids=() rc=0 r
    shift
    if [ "$n" = 1 ]; then "$@"; return; fi
    if [ -n "${LORAC_MPIRUN:-}" ]; then
        timeout 300 mpirun --oversubscribe --bind-to none -n "$n" "$@"
        return
    fi
    port=$((port + 1))
    for ((r = n - 1; r >= 0; r--)); do
        if [ $r = 0 ]; then break; fi
        WORLD_SIZE=$n RANK=$r LOCAL_RANK=$r MASTER_ADDR=127.0.0.1 MASTER_PORT=$port timeout 300 "$@" &
        pids+=($!)
    done
    WORLD_SIZE=$n RANK=0 LOCAL_RANK=0 MASTER_ADDR=127.0.0.1 MASTER_PORT=$port timeout 300 "$@" || rc=$?
    for r in "${pids[@]}"; do wait "$r" || rc=$?; done
    return $rc
}

comm()
{
    local n said
    for n in 2 3 4; do
        said=$(timeout 120 comm_ranks --threads $n 2>&1 | tee "$out/comm-threads-$n.log" | tail -n 1)
        [ "$said" = "threads: $n ranks, 0 cases failed" ] && line PASS "comm: $n threads on one device" || line FAIL "comm: $n threads on one device" "$said"
    done
    [ -n "$counts" ] || line SKIP "comm: NCCL" "one GPU"
    for n in $counts; do
        said=$(ranks "$n" comm_ranks 2> "$out/comm-$n.err" | tee "$out/comm-$n.log" | tail -n 1)
        case $said in
        *": $n ranks, 0 cases failed") line PASS "comm: $n processes" "$said" ;;
        *) line FAIL "comm: $n processes" "$said $(tail -n 2 "$out/comm-$n.err" | tr '\n' ' ')" ;;
        esac
    done
}

losses() # FOLDER
{
    sed -nE 's/.*"step": ([0-9]+),.*"loss": ([0-9.e+-]+),.*/\1 \2/p' "$1/metrics.jsonl"
}

# compare A B EARLY ALL: the largest relative differences of the first 3 steps and of all; fails beyond the limits
compare()
{
    paste -d' ' <(losses "$1") <(losses "$2") | awk -v early="$3" -v all="$4" '
        { d = $2 / $4 - 1; if (d < 0) d = -d; if ($1 != $3) bad = 1; if (NR <= 3 && d > a) a = d; if (d > b) b = d }
        END { printf "3 steps %.1e, %d steps %.1e\n", a, NR, b; exit NR < 20 || bad || a > early || b > all }'
}

# curve PRECISION NAME EARLY ALL KEYS...
curve()
{
    local precision=$1 name=$2 early=$3 all=$4 model=$root/tests/fixtures/models/llama3-d128 n zero said folder
    shift 4
    cat > "$out/curve.yaml" << END
model: {path: "$model"}
data: {train: "$model/packed.jsonl", format: tokens, max_length: 64, cache: off, packing: off}
batch: {global: 16}
optim: {lr: 0.001, weight_decay: 0.1}
train: {max_steps: 20}
log: {tensorboard: false}
runtime: {device: $device, precision: $precision, memory: 4}
output: "$out/curves/one"
END
    folder=$out/curves/$precision-$name
    rm -rf "$folder-1"
    if ! ranks 1 lorac train --quiet "$out/curve.yaml" output="$folder-1" "$@" > "$folder-1.log" 2>&1; then
        line FAIL "curves $precision $name: one GPU" "$(tail -n 1 "$folder-1.log")"
        return
    fi
    for n in $counts; do
        for zero in 0 1 2 3; do
            rm -rf "$folder-$n-$zero"
            if ranks "$n" lorac train --quiet "$out/curve.yaml" output="$folder-$n-$zero" parallel.zero=$zero "$@" > "$folder-$n-$zero.log" 2>&1; then
                said=$(compare "$folder-1" "$folder-$n-$zero" "$early" "$all") && line PASS "curves $precision $name: $n ranks, stage $zero" "$said" ||
                    line FAIL "curves $precision $name: $n ranks, stage $zero" "$said"
            else
                line FAIL "curves $precision $name: $n ranks, stage $zero" "$(grep -v '^-*$' "$folder-$n-$zero.log" | head -n 1)"
            fi
        done
    done
}

curves()
{
    mkdir -p "$out/curves"
    [ -n "$counts" ] || { line SKIP curves "one GPU"; return; }
    curve fp32 full 1e-5 1e-4 method=full
    curve fp32 lora 1e-5 1e-4 lora.rank=8 batch.micro=2 train.recompute=full
    [ "$device" = cuda ] || return
    curve bf16 full 5e-3 1e-2 method=full train.update=after train.gradients=fp32
    curve bf16 full-in-backward 5e-3 1e-2 method=full train.update=in_backward optim.clip_by=block
    curve bf16 lora 5e-3 1e-2 lora.rank=8 batch.micro=2
    curve bf16 lora-reduced-bf16 5e-3 1e-2 lora.rank=8 parallel.reduce=bf16
}

# speed NAME N FLAGS...
speed()
{
    local name=$1 n=$2 said
    shift 2
    if ranks "$n" lorac bench --json --rows full --seconds "$seconds" "$@" > "$out/bench-$name-$n.json" 2> "$out/bench-$name-$n.err"; then
        said=$(sed -E 's/.*"step_s": ([0-9.e+-]+).*"tokens_per_s": ([0-9.e+-]+).*/\1 s, \2 tokens\/s/' "$out/bench-$name-$n.json")
        line PASS "bench $name on $n" "$said  $(grep -oE '"(exposed_s|peak_bytes|planned_bytes)": [0-9.e+-]+' "$out/bench-$name-$n.json" | tr '\n"' '  ')"
        grep '^{' "$out/bench-$name-$n.json" | sed "s/^{/{\"name\": \"$name-$n\", /" >> "$out/bench.jsonl"
    else
        line FAIL "bench $name on $n" "$(grep -v '^-*$' "$out/bench-$name-$n.err" | head -n 1)"
    fi
}

bench()
{
    local n
    [ "$device" = cuda ] || { line SKIP bench "no GPU"; return; }
    : > "$out/bench.jsonl"
    for n in 1 $counts; do
        speed 8b-lora-zero1 "$n" --model llama-3-8b --micro 4 --zero 1
        speed 8b-full-zero2 "$n" --model llama-3-8b --micro 1 --method full --zero 2
        [ "$n" = 1 ] && continue
        speed 8b-lora-zero3 "$n" --model llama-3-8b --micro 4 --zero 3
        speed 8b-full-zero3 "$n" --model llama-3-8b --micro 4 --method full --zero 3
        speed 8b-full-zero3-after "$n" --model llama-3-8b --micro 4 --method full --zero 3 --update after --gradients fp32
    done
    [ "$gpus" -ge 4 ] && speed 70b-lora-zero3 4 --model llama-2-70b --seq 2048 --micro 2 --zero 3
}

table_run
