#!/usr/bin/env bash
# The Comm cases on processes: by mpirun where it is there, and without MPI by the environment.
#   test_ranks.sh COMM_RANKS
set -euo pipefail
program=$1
failed=0

# the variables of whoever runs this test are no launch of ours
for v in $(compgen -e | grep -E '^(OMPI_|PMIX_|SLURM_|RANK$|WORLD_SIZE$|LOCAL_RANK$|MASTER_)' | grep -v OMPI_ALLOW || true); do unset "$v"; done

expect() { # NAME WANT OUTPUT
    if [ "$3" = "$2" ]; then echo "ok: $1"; else echo "$1: wanted '$2', got '$3'"; failed=1; fi
}

expect alone "self: 1 ranks, 0 cases failed" "$("$program" 2>&1)"

# Open MPI leaks a little, which is none of ours
if command -v mpirun >/dev/null && "$program" --has-mpi; then
    for n in 2 4; do
        out=$(OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 ASAN_OPTIONS=detect_leaks=0 mpirun --oversubscribe -n $n "$program" 2>&1) || true
        expect "mpirun -n $n" "mpi: $n ranks, 0 cases failed" "$out"
    done
else
    echo "skipped: ranks by mpirun: no MPI here"
fi

by_hand() { # N: ranks by the environment, the last one first
    local n=$1 pids=() out
    export WORLD_SIZE=$n MASTER_ADDR=127.0.0.1 MASTER_PORT=$((20000 + RANDOM % 12000))
    for ((r = n - 1; r > 0; r--)); do
        RANK=$r LOCAL_RANK=$r "$program" &
        pids+=($!)
    done
    out=$(RANK=0 LOCAL_RANK=0 "$program" 2>&1) || true
    for p in "${pids[@]}"; do wait "$p" || failed=1; done
    unset WORLD_SIZE MASTER_ADDR MASTER_PORT
    expect "$n by hand" "sockets: $n ranks, 0 cases failed" "$out"
}
by_hand 2
by_hand 3

# a step of srun, and a batch script, which is none
out=$(SLURM_JOB_ID=77 SLURM_PROCID=0 SLURM_NTASKS=2 SLURM_LOCALID=0 SLURM_STEP_ID=batch "$program" 2>&1)
expect "batch script" "self: 1 ranks, 0 cases failed" "$out"
out=$(SLURM_JOB_ID=77 SLURM_PROCID=0 SLURM_NTASKS=2 "$program" 2>&1)
expect "batch script without a step" "self: 1 ranks, 0 cases failed" "$out"
step="env SLURM_JOB_ID=$((RANDOM * 7)) SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=2 SLURM_STEP_NODELIST=localhost"
$step SLURM_PROCID=1 SLURM_LOCALID=1 "$program" &
p=$!
out=$($step SLURM_PROCID=0 SLURM_LOCALID=0 "$program" 2>&1) || true
wait $p || failed=1
expect "srun" "sockets: 2 ranks, 0 cases failed" "$out"

# what is wrong is named
out=$(WORLD_SIZE=2 "$program" 2>&1) || true
expect "no rank" "RANK: is not set, but WORLD_SIZE is" "$out"
out=$(WORLD_SIZE=2 RANK=x "$program" 2>&1) || true
expect "no number" "RANK: must be a number from 0 to 1, is 'x'" "$out"
exit $failed
