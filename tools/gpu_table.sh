# shellcheck shell=bash
# Sourced by the scripts that run unattended on a GPU machine: the bundle's environment, sections by name, a table of PASS,
# FAIL and SKIP lines.

# Where there is no folder bundle, bundle.tar.gz is unpacked first.
bundle_env()
{
    bundle=${LORAC_BUNDLE:-$root/bundle}
    [ -d "$bundle" ] || tar -C "$(dirname "$bundle")" -xzf "$bundle.tar.gz" || exit 2
    # shellcheck disable=SC1091
    . "$bundle/env.sh" || exit 2
}

# table_begin "ALL SECTIONS" OUT [SECTION...]: without OUT the script's own comment is its help.  Sets out, table, sections
# and device, the backend that $LORAC_TEST_BACKEND names.
table_begin()
{
    local all=$1 s
    shift
    [ $# -gt 0 ] || { sed -n '2,/^set/p' "$0" | sed '$d; s/^# \{0,1\}//'; exit 2; }
    bundle_env
    mkdir -p "$1" || exit 2
    out=$(cd "$1" && pwd)
    shift
    export LORAC_TEST_BACKEND=${LORAC_TEST_BACKEND:-cuda}
    device=$LORAC_TEST_BACKEND
    table=$out/table.txt
    : > "$table"
    sections=${*:-$all}
    for s in $sections; do
        case " $all " in *" $s "*) ;; *) echo "there is no section $s; there are $all" >&2; exit 2 ;; esac
    done
}

line() # PASS|FAIL|SKIP WHAT [NUMBERS]
{
    printf '%-4s  %-52s %s\n' "$1" "$2" "${3:-}" | tee -a "$table"
}

# section NAME: each is a function
section()
{
    echo "== $1"
    "$1"
}

# side_by_side GPUS EACH SECTION...: the sections, EACH at a time on a GPU
side_by_side()
{
    local s i gpus=$1 places=$(($1 * $2)) pids=()
    shift 2
    for s in "$@"; do
        while :; do
            for ((i = 0; i < places; i++)); do
                if [ -z "${pids[$i]:-}" ] || ! kill -0 "${pids[$i]}" 2> /dev/null; then break 2; fi
            done
            wait -n
        done
        CUDA_VISIBLE_DEVICES=$((i % gpus)) section "$s" &
        pids[i]=$!
    done
    wait
}

# table_run [GPUS [EACH "ALONE..."]]: all sections, EACH at a time on a GPU but for those that want one for themselves, which
# come last; the table again at the end, with the exit code for it
table_run()
{
    local s failed gpus=${1:-1} each=${2:-1} share=() own=()
    for s in $sections; do
        case "$each ${3:-} " in 1\ * | *" $s "*) own+=("$s") ;; *) share+=("$s") ;; esac
    done
    if [ "$gpus" -gt 1 ] || [ "$each" -gt 1 ]; then
        side_by_side "$gpus" "$each" "${share[@]}"
        side_by_side "$gpus" 1 "${own[@]}"
    else
        for s in $sections; do section "$s"; done
    fi
    echo
    echo "== table"
    cat "$table"
    failed=$(grep -c '^FAIL' "$table")
    echo "$(grep -c '^PASS' "$table") passed, $failed failed, $(grep -c '^SKIP' "$table") skipped in $SECONDS s; logs in $out"
    [ "$failed" = 0 ] && grep -q '^PASS' "$table"
}
