# Several ranks: by mpirun and by the environment they give one rank's losses; checkpoints go from any number of them to any
# other; a rank that is killed, hangs, or was started with something else ends all, by name.
. "$(dirname "$0")/lib.sh"

no_launcher
model=$root/tests/fixtures/models/llama2-d64
cat >"$tmp/run.yaml" <<END
model: {path: "$model"}
method: full
data: {train: "$model/packed.jsonl", eval: "$model/batches.jsonl", format: tokens, max_length: 64, cache: off, packing: off}
batch: {global: 8}
optim: {lr: 2e-3}
train: {max_steps: 6}
eval: {every: 3}
save: {every: 3}
log: {tensorboard: false}
runtime: {threads: 1}
END

# near NAME FILE FILE: the same losses, relative 1e-6 in 3 steps, 2e-5 in all
near()
{
    checks=$((checks + 1))
    for f in "$2" "$3"; do sed -nE 's/.*"step": ([0-9]+),.*"(eval_)?loss": ([0-9.e+-]+),.*/\1 \3/p' "$f" >"$f.losses"; done
    paste -d' ' "$2.losses" "$3.losses" | awk '
        { d = $2 / $4 - 1; if (d < 0) d = -d; if ($1 != $3 || d > ($1 <= 3 ? 1e-6 : 2e-5)) { print; bad = 1 } n++ }
        END { exit bad || n < 8 }' >&2 || fail "$1: losses differ"
}

done_by 'one rank' train --quiet "$tmp/run.yaml" output="$tmp/one"

by_hand 3 -- train --quiet "$tmp/run.yaml" output="$tmp/hand" parallel.zero=2
ends 'three ranks by hand' 0
near 'three ranks by hand' "$tmp/one/metrics.jsonl" "$tmp/hand/metrics.jsonl"

by_hand 4 -- train --quiet "$tmp/run.yaml" output="$tmp/groups" parallel.zero=3 parallel.shard_group=2 save.every=3
ends 'groups of two' 0
near 'groups of two' "$tmp/one/metrics.jsonl" "$tmp/groups/metrics.jsonl"
by_hand 3 -- train --quiet "$tmp/run.yaml" output="$tmp/x" parallel.shard_group=2
ends 'groups that do not come out even' 2
noted 'groups that do not come out even' '*parallel.shard_group: 2 does not divide the 3 ranks'

if command -v mpirun >/dev/null && "$lorac" --version | grep -q 'MPI'; then
    for n in 2 4; do
        mpirun --oversubscribe -n $n "$lorac" train --quiet "$tmp/run.yaml" output="$tmp/mpi$n" parallel.zero=3 >"$tmp/out" 2>"$tmp/err"
        rc=$?
        ends "mpirun -n $n" 0
        said "mpirun -n $n" '*6 steps  loss 5.*#*'
        near "mpirun -n $n" "$tmp/one/metrics.jsonl" "$tmp/mpi$n/metrics.jsonl"
    done

    mpirun --oversubscribe -n 4 "$lorac" train --quiet "$tmp/run.yaml" output="$tmp/mpigroups" parallel.zero=2 parallel.shard_group=2 >"$tmp/out" 2>"$tmp/err"
    rc=$?
    ends 'groups by mpirun' 0
    near 'groups by mpirun' "$tmp/one/metrics.jsonl" "$tmp/mpigroups/metrics.jsonl"

    # What is split is read in parts: rank 0 reads its own.
    total=$(stat -c %s "$model/model.safetensors")
    for n in 2 4; do
        for how in 'method=full parallel.zero=1' 'method=full parallel.zero=3' 'method=lora parallel.zero=3'; do
            # shellcheck disable=SC2086
            mpirun --oversubscribe -n $n "$lorac" train --verbose "$tmp/run.yaml" output="$tmp/read" train.max_steps=1 save.every=0 $how >"$tmp/out" 2>"$tmp/err"
            rc=$?
            rm -rf "$tmp/read"
            ends "reading, $n ranks, $how" 0
            read=$(sed -nE 's/^weights: ([0-9]+) bytes read by this rank$/\1/p' "$tmp/err")
            checks=$((checks + 1))
            [ $((read * n * 10)) -ge $((total * 9)) ] && [ $((read * n * 10)) -le $((total * 11)) ] ||
                fail "reading, $n ranks, $how: rank 0 read $read of $total bytes"
        done
    done

    # Saved on 4; the same number goes on to the bit, 2 and 1 within rounding; and from 1 to 2.
    for n in 4 2 1; do
        cp -r "$tmp/mpi4" "$tmp/from4to$n"
        rm -r "$tmp/from4to$n/checkpoint-6" "$tmp/from4to$n/model.safetensors"
        mpirun --oversubscribe -n $n "$lorac" train "$tmp/run.yaml" output="$tmp/from4to$n" parallel.zero=3 >"$tmp/out" 2>"$tmp/err"
        rc=$?
        ends "from 4 to $n" 0
        noted "from 4 to $n" '*checkpoint-3, step 3 of 6*'
        near "from 4 to $n" "$tmp/one/metrics.jsonl" "$tmp/from4to$n/metrics.jsonl"
    done
    same 'weights of 4 ranks, interrupted' "$tmp/mpi4/model.safetensors" "$tmp/from4to4/model.safetensors"
    same 'states of 4 ranks, interrupted' "$tmp/mpi4/checkpoint-6/state.safetensors" "$tmp/from4to4/checkpoint-6/state.safetensors"
    cp -r "$tmp/one" "$tmp/from1to2"
    rm -r "$tmp/from1to2/checkpoint-6"
    mpirun --oversubscribe -n 2 "$lorac" train --quiet "$tmp/run.yaml" output="$tmp/from1to2" parallel.zero=1 >"$tmp/out" 2>"$tmp/err"
    rc=$?
    ends 'from 1 to 2' 0
    near 'from 1 to 2' "$tmp/one/metrics.jsonl" "$tmp/from1to2/metrics.jsonl"
else
    echo 'skipped: ranks by mpirun: no MPI here'
fi

# ---- what is told ------------------------------------------------------------------------------

by_hand 2 optim.lr=1 -- train --quiet "$tmp/run.yaml" output="$tmp/x"
ends 'another config' 2
noted 'another config' 'rank 1 of 2 on *: another config than rank 0: optim.lr is 1, rank 0 has *; start every rank with the same one'
# a schedule has keys of its own, which are not what differs
by_hand 3 optim.schedule=wsd optim.decay_ratio=0.5 -- train --quiet "$tmp/run.yaml" output="$tmp/x"
ends 'a schedule of its own' 2
noted 'a schedule of its own' 'rank 2 of 3 on *: another config than rank 0: optim.schedule is wsd, rank 0 has *; start every rank with the same one'
by_hand 2 data.train="$tmp/none.jsonl" -- train --quiet "$tmp/run.yaml" output="$tmp/x"
ends 'a file missing on one rank' 2
noted 'a file missing on one rank' "rank 1 of 2 on *: command line: data.train: $tmp/none.jsonl is not there*"

# ---- deaths ------------------------------------------------------------------------------------

# begun N ARGS...: ranks in the background; $pids, rank 0 last
begun()
{
    n=$1
    shift
    port=$((20000 + $$ % 10000 + checks))
    r=$((n - 1))
    pids=
    rm -f "$tmp"/err[0-9]
    while [ $r -ge 0 ]; do
        WORLD_SIZE=$n RANK=$r LOCAL_RANK=$r MASTER_ADDR=127.0.0.1 MASTER_PORT=$port \
            "$lorac" train "$tmp/run.yaml" "$@" >"$tmp/out$r" 2>"$tmp/err$r" </dev/null &
        pids="$pids $!"
        r=$((r - 1))
    done
}

# started N ARGS...: the same for as long as it takes, and some way into it
started()
{
    n=$1
    shift
    begun "$n" train.max_steps=20000 eval.every=0 save.every=0 "$@"
    i=0
    while [ $i -lt 100 ] && ! grep -qs 'step 20/' "$tmp/err0"; do sleep 0.1 && i=$((i + 1)); done
}

# pid_of PLACE: of the ranks that run, as $pids has them
pid_of()
{
    echo "$pids" | awk -v n="$1" '{ print $n }'
}

# all end within 10 seconds
ended() # NAME CODE
{
    began=$(date +%s)
    for p in $pids; do
        wait "$p"
        code=$?
        checks=$((checks + 1))
        [ $code = "$2" ] || [ $code = 137 ] || fail "$1: process $p ended with $code instead of $2"
    done
    checks=$((checks + 1))
    [ $(($(date +%s) - began)) -le 10 ] || fail "$1: took $(($(date +%s) - began)) s"
}

told() # NAME PATTERN
{
    checks=$((checks + 1))
    cat "$tmp"/err[0-9] | grep -v '^step ' >"$tmp/told"
    # shellcheck disable=SC2254
    case $(cat "$tmp/told") in
    $2) ;;
    *) fail "$1: said otherwise than '$2': $(cat "$tmp/told")" ;;
    esac
}

# ---- asked to stop while the others are waited for ------------------------------------------------

# alone SIZE RANK: that rank of so many, which some other never joins; added to $pids
alone()
{
    WORLD_SIZE=$1 RANK=$2 LOCAL_RANK=$2 MASTER_ADDR=127.0.0.1 MASTER_PORT=$((20000 + $$ % 10000 + checks)) \
        "$lorac" train "$tmp/run.yaml" output="$tmp/none" >"$tmp/out$2" 2>"$tmp/err$2" </dev/null &
    pids="$pids $!"
}

# Until the processes take SIGTERM for themselves, which a busy machine may let wait; then they have a moment to meet.
listen() # PID...
{
    for p in "$@"; do
        i=0
        while [ $i -lt 200 ] && ! grep -Eqs 'SigCgt:.*[4567c-f][0-9a-f]{3}$' "/proc/$p/status"; do sleep 0.1 && i=$((i + 1)); done
    done
    sleep 0.5
}

for signal in TERM USR1; do
    for r in 0 1; do
        pids= && rm -f "$tmp"/err[0-9]
        alone 2 $r
        listen $!
        kill -$signal $!
        ended "rank $r of 2 alone" 75
        told "rank $r of 2 alone" "stopped by SIG$signal before *"
    done
done
for r in 0 1; do # of three, the last never comes; the other of the two is told
    pids= && rm -f "$tmp"/err[0-9]
    alone 3 $((1 - r))
    alone 3 $r
    # shellcheck disable=SC2086
    listen $pids
    kill -TERM $!
    ended "two of three, rank $r is asked" 75
    told "two of three, rank $r is asked" "*stopped by SIGTERM before all ranks had come*"
    told "two of three, rank $r is asked" "*stopped by a request to another rank before all ranks had come*"
done
pids= && rm -f "$tmp"/err[0-9]
alone 3 1
gone=$!
alone 3 0
# shellcheck disable=SC2086
listen $pids
kill -9 $gone
ended 'a rank that ends while all wait' 1
told 'a rank that ends while all wait' 'rank 1 of 3 ended before all ranks had come'

started 3 output="$tmp/k1" parallel.zero=3
kill -9 "$(pid_of 1)" # rank 2
ended 'rank 2 killed' 1
told 'rank 2 killed' 'lorac: rank 2 of 3 on * ended without a word in step [0-9]*'

started 2 output="$tmp/k2" parallel.zero=1
kill -9 "$(pid_of 2)" # rank 0
ended 'rank 0 killed' 1
told 'rank 0 killed' 'lorac: rank 0 of 2 on * ended without a word in step [0-9]*'

# A rank that stands still: the others give up and tell where they wait; of what, too, where it is something that has a layer.
tries=0
layers=0
while [ $layers = 0 ] && [ $tries -lt 6 ]; do
    started 3 output="$tmp/k3" parallel.zero=3 parallel.timeout=1
    stopped=$(pid_of 1) # rank 2
    kill -STOP "$stopped"
    sleep 5
    kill -KILL "$stopped"
    ended 'rank 2 stands still' 1
    told 'rank 2 stands still' 'lorac: ranks wait for each other for more than 1 s (parallel.timeout):
  rank 0 on * waits in *, step [0-9]*, for [0-9]* s
  rank 1 on * waits in *, step [0-9]*, for [0-9]* s
  rank 2 on * does not answer'
    grep -Eq 'rank 0 on .* waits in (all-gather|reduce-scatter) of (embedding|block [01]|head), step [0-9]+, for' "$tmp/told" && layers=1
    tries=$((tries + 1))
done
checks=$((checks + 1))
[ $layers = 1 ] || fail "no report of $tries named a layer"

# A request to any rank stops all with a checkpoint and the code for it.
started 2 output="$tmp/k4" parallel.zero=2
kill -USR1 "$(pid_of 1)" # rank 1
ended 'a request to rank 1' 75
checks=$((checks + 1))
ls -d "$tmp"/k4/checkpoint-* >/dev/null 2>&1 || fail 'a request to rank 1: no checkpoint'


# Again and again, also during evaluations and saves, to one rank or another: the end is what it is without.
long='train.max_steps=150 eval.every=2 save.every=3'
# shellcheck disable=SC2086
by_hand 2 -- train --quiet "$tmp/run.yaml" output="$tmp/straight" parallel.zero=3 $long
ends 'two ranks that nobody stops' 0
stops=0
rc=75
while [ $rc = 75 ] && [ $stops -lt 5 ]; do
    # shellcheck disable=SC2086
    begun 2 --quiet output="$tmp/stopped" parallel.zero=3 $long
    reaches "$tmp/stopped/metrics.jsonl" $((30 + 40 * stops)) "$(pid_of 1)" 30
    kill -"$(echo 'USR1 TERM' | cut -d' ' -f$((stops % 2 + 1)))" "$(pid_of $((stops % 2 + 1)))" 2>/dev/null
    for p in $pids; do
        wait "$p"
        code=$?
        [ "$p" = "$(pid_of 1)" ] && rc=$code
        [ $code = $rc ] || fail "stop $stops: exit codes $rc and $code"
    done
    [ $rc = 0 ] || [ $rc = 75 ] || { fail "stop $stops: exit code $rc" && cat "$tmp"/err0 >&2; }
    [ $rc = 75 ] && stops=$((stops + 1))
done
echo "cli ranks: $stops stops"
checks=$((checks + 1))
[ $stops -ge 2 ] || fail "only $stops requests hit the run"
# shellcheck disable=SC2086
by_hand 2 -- train --quiet "$tmp/run.yaml" output="$tmp/stopped" parallel.zero=3 $long
ends 'the start after stops' 0
losses "$tmp/straight/metrics.jsonl" >"$tmp/a"
losses "$tmp/stopped/metrics.jsonl" >"$tmp/b"
same 'metrics.jsonl of two ranks, stopped' "$tmp/a" "$tmp/b"
same 'weights of two ranks, stopped' "$tmp/straight/model.safetensors" "$tmp/stopped/model.safetensors"
same 'states of two ranks, stopped' "$tmp/straight/checkpoint-150/state.safetensors" "$tmp/stopped/checkpoint-150/state.safetensors"

# A rank that is killed while all save: what is called a checkpoint is whole, and the next start goes on to the same end.
kills=0
for k in 1 2 3 4; do
    # shellcheck disable=SC2086
    begun 2 --quiet output="$tmp/killed" parallel.zero=3 $long save.every=1
    reaches "$tmp/killed/metrics.jsonl" $((40 * k)) "$(pid_of 1)" 30
    kill -9 "$(pid_of $((k % 2 + 1)))" 2>/dev/null && kills=$((kills + 1))
    ended 'a rank killed in a save' 1
done
checks=$((checks + 1))
[ $kills -ge 2 ] || fail "only $kills kills hit the run"
for c in "$tmp"/killed/checkpoint-*; do
    [ -e "$c" ] && done_by "$c after kills" inspect "$c"
done
# shellcheck disable=SC2086
by_hand 2 -- train --quiet "$tmp/run.yaml" output="$tmp/killed" parallel.zero=3 $long
ends 'the start after kills' 0
same 'weights of two ranks, killed' "$tmp/straight/model.safetensors" "$tmp/killed/model.safetensors"

finish
