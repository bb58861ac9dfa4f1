#!/usr/bin/env bash
# What several GPUs can prove of lorac, unattended, from a bundle (tools/bundle.sh) on a machine with two to eight.  Builds
# nothing.  Logs go to OUT; a table of PASS, FAIL and SKIP lines comes last.  Exit code 1 when a line says FAIL.
#
#   tools/gpu-ranks.sh OUT [SECTION...]      default: all but the last two, under eight minutes on two GPUs
#
#   comm     the Comm cases: threads on one GPU, NCCL on 2, 4, ... GPUs, as it likes and held to 8 blocks
#   curves   losses of 2, 4, ... GPUs against one GPU's: stages, full and LoRA, quantised bases, DoRA, LoRA+, fp32 and bf16
#   deaths   a rank is killed, a rank stands still: all end, with a message that names it
#   resume   saved on two ranks, gone on on one and on two
#   bench    Llama-3-8B and Llama-2-70B on 2, 4, ... GPUs: s/step, what communication leaves exposed, each GPU by itself
#   sweep    the same step by blocks for NCCL, ways of reducing and blocks gathered ahead, beside the ways before; five
#            minutes
#   matrix   lorac bench --matrix at rows of 350, one at a time and as many as fit, for each of LORAC_MATRIX (llama-2-7b; the
#            others of the dissection are llama-2-13b and llama-2-70b): three minutes and more a table
#
# Ranks are started by the environment (RANK, WORLD_SIZE, ...); with LORAC_MPIRUN=1 by mpirun, which must be of the Open MPI
# that the bundle was built with.
# LORAC_BENCH_SECONDS: of steps for each line (4).  LORAC_BUDGET: seconds after which no further line begins (480).
# LORAC_TEST_BACKEND=cpu tries all of it in small without a GPU, on LORAC_TEST_RANKS ranks (2).
set -u
root=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=tools/gpu_table.sh
. "$root/tools/gpu_table.sh"
[ $# = 1 ] && set -- "$1" comm curves deaths resume bench
table_begin "comm curves deaths resume bench sweep matrix" "$@"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
budget=${LORAC_BUDGET:-480}
if [ "$device" = cuda ]; then
    gpus=$(nvidia-smi -L | grep -c '^GPU')
    seconds=${LORAC_BENCH_SECONDS:-4}
else
    gpus=${LORAC_TEST_RANKS:-2}
    seconds=0
fi
counts=$(for n in 2 4 8; do [ $n -le "$gpus" ] && echo $n; done)
most=$(echo "$counts" | tail -n 1)
limit=120 # seconds for a command
port=$((20000 + RANDOM % 12000))

late() # WHAT: no time is left for it
{
    [ $SECONDS -lt "$budget" ] && return 1
    line SKIP "$1" "$SECONDS s are over"
}

# as_rank R N COMMAND...: in the environment of rank R of N
as_rank()
{
    local r=$1 n=$2
    shift 2
    WORLD_SIZE=$n RANK=$r LOCAL_RANK=$r MASTER_ADDR=127.0.0.1 MASTER_PORT=$port "$@"
}

# ranks N COMMAND...: rank 0's output; the worst exit code
ranks()
{
    local n=$1 pids=() rc=0 r
    shift
    if [ "$n" = 1 ]; then timeout $limit "$@"; return; fi
    if [ -n "${LORAC_MPIRUN:-}" ]; then
        timeout $limit mpirun --oversubscribe --bind-to none -n "$n" "$@"
        return
    fi
    port=$((port + 1))
    for ((r = n - 1; r > 0; r--)); do
        as_rank $r "$n" timeout $limit "$@" &
        pids+=($!)
    done
    as_rank 0 "$n" timeout $limit "$@" || rc=$?
    for r in "${pids[@]}"; do wait "$r" || rc=$?; done
    return $rc
}

first_words() # FILE: of what went wrong
{
    grep -v '^-*$' "$1" | head -n 1
}

# ---- collectives --------------------------------------------------------------------------------

# cases NAME LOG COMMAND...: comm_ranks as a line
cases()
{
    local name=$1 log=$2 said
    shift 2
    late "comm: $name" && return
    said=$("$@" 2> "$out/$log.err" | tee "$out/$log.log" | tail -n 1)
    case $said in
    *" ranks, 0 cases failed") line PASS "comm: $name" "$said" ;;
    *) line FAIL "comm: $name" "$said $(tail -n 2 "$out/$log.err" | tr '\n' ' ')" ;;
    esac
}

comm()
{
    local n
    for n in 2 3 4; do cases "$n threads on one device" "comm-threads-$n" timeout 120 comm_ranks --threads $n; done
    [ -n "$counts" ] || line SKIP "comm: NCCL" "one GPU"
    for n in $counts; do
        cases "$n processes" "comm-$n" ranks "$n" comm_ranks
        cases "$n processes, 8 blocks" "comm-$n-8" ranks "$n" comm_ranks --ctas 8
    done
}

# ---- training -----------------------------------------------------------------------------------

model=$root/tests/fixtures/models/llama3-d128

config() # FILE: 20 steps of a tiny model
{
    cat > "$1" << END
model: {path: "$model"}
data: {train: "$model/packed.jsonl", format: tokens, max_length: 64, cache: off, packing: off}
batch: {global: 16}
optim: {lr: 0.001, weight_decay: 0.1}
train: {max_steps: 20}
log: {tensorboard: false}
runtime: {device: $device, memory: 2}
output: "$out/run"
END
}

# train N FOLDER KEYS...: a run with its log beside it
train()
{
    local n=$1 folder=$2
    shift 2
    rm -rf "$folder"
    ranks "$n" lorac train --quiet "$out/run.yaml" output="$folder" "$@" > "$folder.log" 2>&1
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

# curve PRECISION NAME STAGES EARLY ALL KEYS...
curve()
{
    local precision=$1 name=$2 stages=$3 early=$4 all=$5 n zero said what folder
    shift 5
    folder=$out/curves/$precision-$name
    late "curves $precision $name" && return
    if ! train 1 "$folder-1" runtime.precision="$precision" "$@"; then
        line FAIL "curves $precision $name: one GPU" "$(first_words "$folder-1.log")"
        return
    fi
    for n in $counts; do
        for zero in $stages; do
            what="curves $precision $name: $n ranks, stage $zero"
            late "$what" && continue
            if train "$n" "$folder-$n-$zero" runtime.precision="$precision" parallel.zero="$zero" "$@"; then
                said=$(compare "$folder-1" "$folder-$n-$zero" "$early" "$all") && line PASS "$what" "$said" || line FAIL "$what" "$said"
            else
                line FAIL "$what" "$(first_words "$folder-$n-$zero.log")"
            fi
        done
    done
}

curves()
{
    mkdir -p "$out/curves"
    config "$out/run.yaml"
    [ -n "$counts" ] || { line SKIP curves "one GPU"; return; }
    curve fp32 full "0 1 2 3" 1e-5 1e-4 method=full
    curve fp32 lora "0 1 2 3" 1e-5 1e-4 lora.rank=8 batch.micro=2 train.recompute=full
    curve fp32 nf4 "1 3" 1e-5 1e-4 method=qlora lora.rank=8
    curve fp32 int8 3 1e-5 1e-4 method=qlora model.quantize=int8 lora.rank=8 batch.micro=2
    curve fp32 dora 3 1e-5 1e-4 lora='{rank: 8, dora: true}'
    curve fp32 lora-plus 3 1e-5 1e-4 lora='{rank: 8, b_lr_ratio: 16}'
    [ "$device" = cuda ] || return
    curve bf16 full-in-backward "0 1 2 3" 5e-3 1e-2 method=full train.update=in_backward optim.clip_by=block
    curve bf16 full "1 3" 5e-3 1e-2 method=full train.update=after train.gradients=fp32 parallel.prefetch=2
    curve bf16 full-exact "2 3" 5e-3 1e-2 method=full train.update=after train.gradients=bf16 batch.micro=2
    curve bf16 full-reduced-bf16 3 5e-3 1e-2 method=full parallel.reduce=bf16 parallel.ctas=4
    curve bf16 lora "1 3" 5e-3 1e-2 lora.rank=8 batch.micro=2
    curve bf16 nf4 3 5e-3 1e-2 method=qlora lora.rank=8
}

# ---- ends and beginnings ------------------------------------------------------------------------

# started KEYS...: two ranks that would run for ever; $pids, rank 0 first, when they have taken 20 steps
started()
{
    local r i
    config "$out/run.yaml"
    rm -rf "$out/endless" "$out"/deaths-[01].* # what the last ones said
    port=$((port + 1))
    pids=()
    for r in 0 1; do
        # no function in between: $! is to be the program
        WORLD_SIZE=2 RANK=$r LOCAL_RANK=$r MASTER_ADDR=127.0.0.1 MASTER_PORT=$port lorac train "$out/run.yaml" output="$out/endless" \
            train.max_steps=1000000 "$@" > "$out/deaths-$r.out" 2> "$out/deaths-$r.err" < /dev/null &
        pids+=($!)
    done
    for ((i = 0; i < 600; i++)); do
        grep -qs 'step 20/' "$out/deaths-0.err" && return
        sleep 0.1
    done
}

# ended NAME VICTIM SECONDS PATTERN: all but rank VICTIM ended with code 1 in that time, and one said so
ended()
{
    local name=$1 limit=$3 pattern=$4 i other=$((1 - $2)) code=none
    for ((i = 0; i < 10 * limit; i++)); do
        kill -0 "${pids[$other]}" 2> /dev/null || break
        sleep 0.1
    done
    kill -0 "${pids[$other]}" 2> /dev/null || { wait "${pids[$other]}"; code=$?; }
    kill -KILL "${pids[@]}" 2> /dev/null
    wait "${pids[@]}" 2> /dev/null
    if [ "$code" = 1 ] && cat "$out"/deaths-[01].err | tr '\n' ' ' | grep -qE "$pattern"; then
        line PASS "deaths: $name" "rank $other ended after $((i / 10)).$((i % 10)) s"
    else
        line FAIL "deaths: $name" "rank $other: exit code $code; $(grep -v '^step ' "$out/deaths-$other.err" | head -n 1)"
    fi
}

deaths()
{
    [ -n "$counts" ] || { line SKIP deaths "one GPU"; return; }
    late deaths && return
    started parallel.zero=3
    kill -KILL "${pids[1]}"
    ended "rank 1 killed" 1 10 'rank 1 of 2 on .* ended without a word in step [0-9]+'
    started parallel.zero=1
    kill -KILL "${pids[0]}"
    ended "rank 0 killed" 0 10 'rank 0 of 2 on .* ended without a word in step [0-9]+'
    started parallel.zero=3 parallel.timeout=3
    kill -STOP "${pids[1]}"
    ended "rank 1 stands still" 1 30 'ranks wait for each other for more than 3 s.*rank 0 on .* waits in .*rank 1 on .* does not answer'
}

resume()
{
    local from=$out/resume-2 n said
    [ -n "$counts" ] || { line SKIP resume "one GPU"; return; }
    late resume && return
    config "$out/run.yaml"
    set -- method=full runtime.precision=fp32 save.every=10
    train 2 "$from" parallel.zero=3 "$@" || { line FAIL "resume: the run to go on from" "$(first_words "$from.log")"; return; }
    for n in 1 2; do
        rm -rf "$out/resume-to-$n"
        cp -r "$from" "$out/resume-to-$n"
        rm -rf "$out/resume-to-$n/checkpoint-20" "$out/resume-to-$n/model.safetensors"
        ranks $n lorac train "$out/run.yaml" output="$out/resume-to-$n" parallel.zero=3 "$@" > "$out/resume-to-$n.log" 2>&1
        grep -q 'checkpoint-10, step 10 of 20' "$out/resume-to-$n.log" || { line FAIL "resume: saved on 2, on $n" "$(first_words "$out/resume-to-$n.log")"; continue; }
        said=$(compare "$from" "$out/resume-to-$n" 1e-5 1e-4) && line PASS "resume: saved on 2, on $n" "$said" || line FAIL "resume: saved on 2, on $n" "$said"
    done
}

# ---- speed --------------------------------------------------------------------------------------

# A GPU's shapes, or a tiny one that shows that the script runs.
shape()
{
    local name=$1 micro=$2 seq=$3
    if [ "$device" = cuda ]; then
        echo "--model $name --micro $micro --seq $seq"
    else
        echo "--model tiny --device cpu --threads 1 --seq 16 --micro 2 --memory 0.25 --steps 1"
    fi
}

field() # FILE NAME: a number of its JSON, or nothing
{
    sed -nE "s/.*\"$2\": ([0-9.e+-]+).*/\\1/p" "$1"
}

# speed SECTION NAME N FLAGS...: a line of the table and of SECTION.jsonl; what a plan refuses is skipped
speed()
{
    local section=$1 name=$2 n=$3 file=$out/$1-$2-$3 said key value
    shift 3
    late "$section $name on $n" && return
    # shellcheck disable=SC2068
    if ranks "$n" lorac bench --json --rows full --seconds "$seconds" $@ > "$file.json" 2> "$file.err"; then
        said="$(field "$file.json" step_s | cut -c1-7) s"
        for key in tokens_per_s exposed_s alone_s scaling_percent ctas; do
            value=$(field "$file.json" $key | cut -c1-8)
            [ -n "$value" ] && said="$said, $key $value"
        done
        [ "$(field "$file.json" peak_bytes)" = "$(field "$file.json" planned_bytes)" ] && line PASS "$section $name on $n" "$said" ||
            line FAIL "$section $name on $n" "$said; peak is not as planned"
        grep '^{' "$file.json" | sed "s/^{/{\"name\": \"$name-$n\", /" >> "$out/$section.jsonl"
    elif grep -q 'the step needs' "$file.err"; then
        line SKIP "$section $name on $n" "$(grep -o 'the step needs.*' "$file.err" | head -n 1)"
    else
        line FAIL "$section $name on $n" "$(first_words "$file.err")"
    fi
}

bench()
{
    local n llama8 llama8_1 llama70
    [ -n "$counts" ] || { line SKIP bench "one GPU"; return; }
    : > "$out/bench.jsonl"
    llama8=$(shape llama-3-8b 4 4096) llama8_1=$(shape llama-3-8b 1 4096) llama70=$(shape llama-2-70b 2 2048)
    for n in $counts; do
        speed bench 8b-lora-zero1 "$n" "$llama8" --zero 1
        speed bench 8b-full-zero3 "$n" "$llama8" --method full --zero 3
        speed bench 8b-full-zero3-after "$n" "$llama8" --method full --zero 3 --update after
        speed bench 8b-lora-zero3 "$n" "$llama8" --zero 3
        speed bench 8b-full-zero2 "$n" "$llama8_1" --method full --zero 2
    done
    speed bench 70b-lora-zero3 "$most" "$llama70" --zero 3
}

# Each fast way off by itself; "as before" is all of them off.
sweep()
{
    local llama8 llama70 full ctas
    [ -n "$counts" ] || { line SKIP sweep "one GPU"; return; }
    : > "$out/sweep.jsonl"
    llama8=$(shape llama-3-8b 4 4096) llama70=$(shape llama-2-70b 2 2048)
    full="$llama8 --method full --zero 3 --steps-only"
    speed sweep 8b-full "$most" "$full"
    speed sweep 8b-full-as-before "$most" "$full" --ctas 0 --reduce "$(by_device fp32-sent fp32)"
    for ctas in 0 4 8 16 24; do speed sweep "8b-full-ctas-$ctas" "$most" "$full" --ctas $ctas; done
    for ctas in 4 8; do speed sweep "8b-full-ctas-$ctas-none-spared" "$most" "$full" --ctas $ctas --spare 0; done
    speed sweep 8b-full-sent-fp32 "$most" "$full" --reduce "$(by_device fp32-sent fp32)"
    speed sweep 8b-full-reduce-bf16 "$most" "$full" --reduce "$(by_device bf16 fp32)"
    speed sweep 8b-full-ahead-0 "$most" "$full" --prefetch 0
    speed sweep 8b-full-ahead-2 "$most" "$full" --prefetch 2
    for ctas in 0 8; do speed sweep "8b-lora-zero3-ctas-$ctas" "$most" "$llama8" --zero 3 --steps-only --ctas $ctas; done
    for ctas in -1 0 24; do speed sweep "70b-lora-ctas-$ctas" "$most" "$llama70" --zero 3 --steps-only --ctas $ctas; done
}

# Tables of what each way takes.
matrix()
{
    local name flags rows file
    [ -n "$counts" ] || { line SKIP matrix "one GPU"; return; }
    : > "$out/matrix.jsonl"
    limit=580
    for name in ${LORAC_MATRIX:-llama-2-7b}; do
        for rows in "--micro 1" --largest; do
            late "matrix $name $rows" && continue
            file=$out/matrix-$name${rows// /}
            flags="--model $name --matrix --seconds 1 --steps 1 $rows"
            [ "$device" = cuda ] || flags="--model tiny --matrix --seconds 0 --steps 1 $rows --seq 64 --device cpu --threads 1 --memory 0.0039"
            # shellcheck disable=SC2086
            if ranks "$most" lorac bench $flags --json > "$file.json" 2> "$file.err"; then
                cat "$file.json" >> "$out/matrix.jsonl"
                line PASS "matrix $name $rows on $most" "$(grep -c '"fits": true' "$file.json") ways fit, $(grep -c '"fits": false' "$file.json") do not"
            else
                line FAIL "matrix $name $rows on $most" "$(first_words "$file.err")"
            fi
        done
    done
    limit=120
}

by_device() # CUDA CPU
{
    if [ "$device" = cuda ]; then echo "$1"; else echo "$2"; fi
}

table_run
