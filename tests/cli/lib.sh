# What the scripts beside this share: `sh SCRIPT PATH/TO/lorac SOURCE_ROOT`.  Each runs the program as a user does
# and ends with the number of checks that failed.
lorac=$1
root=$2
name=$(basename "$0" .sh)
tmp=$(mktemp -d "${TMPDIR:-/tmp}/lorac-$name-XXXXXX")
trap 'rm -rf "$tmp"' EXIT
checks=0
failures=0
shared=${LORAC_SHARED:-$root/../shared}

fail()
{
    failures=$((failures + 1))
    printf 'FAILED: %s\n' "$*" >&2
}

# run ARGS...: $rc, $tmp/out, $tmp/err
run()
{
    "$lorac" "$@" >"$tmp/out" 2>"$tmp/err" </dev/null
    rc=$?
}

show()
{
    sed 's/^/    /' "$tmp/out" "$tmp/err" | head -8 >&2
}

# done_by NAME ARGS...: must end with 0
done_by()
{
    what=$1
    shift
    run "$@"
    checks=$((checks + 1))
    [ $rc = 0 ] && return
    fail "$what: exit code $rc instead of 0"
    show
}

# refused NAME CODE 'LINE' ARGS...: must end with CODE, nothing on standard output, and LINE on standard error (a shell
# pattern that the whole of it must match)
refused()
{
    what=$1 code=$2 line=$3
    shift 3
    run "$@"
    checks=$((checks + 1))
    [ $rc = "$code" ] || { fail "$what: exit code $rc instead of $code" && show; }
    [ -s "$tmp/out" ] && { fail "$what: wrote to standard output" && show; }
    # shellcheck disable=SC2254 # a pattern it is
    case $(cat "$tmp/err") in
    $line) ;;
    *)
        fail "$what: said otherwise than '$line':"
        show
        ;;
    esac
}

# out_of_memory NAME 'WHAT TO TRY' ARGS...: in two GB of address space (with AddressSanitizer, which takes more, in the one GB that a
# device has then) it must end with the table and exit code 1
out_of_memory()
{
    what=$1 line=$2
    shift 2
    limit=2000000
    (ulimit -v $limit && "$lorac" --version) >/dev/null 2>&1 || limit=unlimited
    (
        ulimit -v $limit
        OPENBLAS_NUM_THREADS=1 exec "$lorac" "$@" --threads 1
    ) >"$tmp/out" 2>"$tmp/err" </dev/null
    rc=$?
    checks=$((checks + 1))
    [ $rc = 1 ] || { fail "$what: exit code $rc instead of 1" && show; }
    noted "$what" "*lorac: */device.c:[0-9]*: out of memory on cpu: [0-9]* bytes for * do not fit *
  memory, MiB *
  weights *
  total *
try $line"
}

# said NAME 'PATTERN': standard output of the last run must match it
said()
{
    checks=$((checks + 1))
    # shellcheck disable=SC2254
    case $(cat "$tmp/out") in
    $2) ;;
    *)
        fail "$1: standard output is not '$2':"
        show
        ;;
    esac
}

# noted NAME 'PATTERN': the same of standard error
noted()
{
    checks=$((checks + 1))
    # shellcheck disable=SC2254
    case $(cat "$tmp/err") in
    $2) ;;
    *)
        fail "$1: standard error is not '$2':"
        show
        ;;
    esac
}

# same NAME FILE FILE
same()
{
    checks=$((checks + 1))
    cmp -s "$2" "$3" || { fail "$1: $2 and $3 differ" && diff "$2" "$3" | head -5 >&2; }
}

# losses FILE: what must be equal in two metrics.jsonl: no times, no speeds, and not how long checkpoints took
losses()
{
    sed -E -e '/"save_s"/d' -e 's/, "(tokens_per_s|step_time|eval_time|peak_bytes|allocated_bytes)": [^,}]*//g' "$1"
}

# A small model with a tokenizer of bytes, in $tmp/model; its adapter in $tmp/adapter.
small_model()
{
    mkdir "$tmp/model"
    golden=$root/tests/fixtures/golden/llama2-tiny
    cp "$golden/config.json" "$golden/model.safetensors" "$golden/generation_config.json" \
        "$root"/tests/fixtures/byte-tokenizer/* "$tmp/model"
    cp -r "$golden/lora_final" "$tmp/adapter"
    chmod -R u+w "$tmp/model" "$tmp/adapter"
}

# poison FILE: its last number, of a file in float32, becomes NaN
poison()
{
    printf '\377\377\377\377' | dd of="$1" bs=1 seek=$(($(wc -c <"$1") - 4)) conv=notrunc 2>"$tmp/err"
}

# no_launcher: who started this script was no launcher of the ranks that it starts
no_launcher()
{
    for v in $(env | sed -nE 's/^(OMPI_[A-Z_]*|PMIX_[A-Z_]*|SLURM_[A-Z_]*|RANK|WORLD_SIZE|LOCAL_RANK|MASTER_ADDR|MASTER_PORT)=.*/\1/p'); do unset "$v"; done
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
}

# by_hand N LAST-RANK'S-ARGS... -- ARGS...: N ranks by the environment; $rc, $tmp/out, $tmp/err of rank 0.  $on_last: a command
# that starts the last one
by_hand()
{
    n=$1
    shift
    last=
    while [ "$1" != -- ]; do last="$last $1" && shift; done
    shift
    port=$((20000 + $$ % 10000 + checks))
    r=$((n - 1))
    pids=
    while [ $r -gt 0 ]; do
        extra=
        starter=
        [ $r = $((n - 1)) ] && extra=$last && starter=${on_last:-}
        # shellcheck disable=SC2086
        WORLD_SIZE=$n RANK=$r LOCAL_RANK=$r MASTER_ADDR=127.0.0.1 MASTER_PORT=$port \
            $starter "$lorac" "$@" $extra >"$tmp/rank$r.out" 2>"$tmp/rank$r.err" </dev/null &
        pids="$pids $!"
        r=$((r - 1))
    done
    WORLD_SIZE=$n RANK=0 LOCAL_RANK=0 MASTER_ADDR=127.0.0.1 MASTER_PORT=$port \
        "$lorac" "$@" >"$tmp/out" 2>"$tmp/err" </dev/null
    rc=$?
    for p in $pids; do
        wait "$p"
        code=$?
        [ $code = $rc ] || { fail "rank of process $p: exit code $code, rank 0: $rc" && cat "$tmp"/rank*.err >&2; }
    done
    r=1
    while [ $r -lt "$n" ]; do
        [ -s "$tmp/rank$r.out" ] && fail "rank $r wrote to standard output: $(cat "$tmp/rank$r.out")"
        r=$((r + 1))
    done
}

ends() # NAME CODE
{
    checks=$((checks + 1))
    [ $rc = "$2" ] || { fail "$1: exit code $rc instead of $2" && show; }
}

# finish: the script's last line
finish()
{
    echo "$name: $checks checks, $failures failed"
    exit $((failures > 0))
}

# Lines of FILE; 0 where there is none.
lines_of() # FILE
{
    if [ -e "$1" ]; then wc -l <"$1"; else echo 0; fi
}

# Waits until FILE has N lines, which its run writes as it gets on: the same place on slow machines and on fast ones; no longer
# than a minute or than the run, PID.  Then for up to MS milliseconds, other ones for every N.
reaches() # FILE N PID MS
{
    i=0
    while [ $i -lt 4000 ] && [ "$(lines_of "$1")" -lt "$2" ] && kill -0 "$3" 2>/dev/null; do
        sleep 0.01 && i=$((i + 1))
    done
    sleep "$(awk -v n="$2" -v ms="$4" 'BEGIN { srand(7 * n); printf "%.3f", ms / 1000 * rand() }')"
}
