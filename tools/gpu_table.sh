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

# side_by_side GPUS: the sections, each on the GPU that is free
side_by_side()
{
    local s g pids=()
    for s in $sections; do
        while :; do
            for ((g = 0; g < $1; g++)); do
                if [ -z "${pids[$g]:-}" ] || ! kill -0 "${pids[$g]}" 2> /dev/null; then break 2; fi
            done
            wait -n
        done
        CUDA_VISIBLE_DEVICES=$g section "$s" &
        pids[g]=$!
    done
    wait
}

# table_run [GPUS]: all sections; the table again at the end, with the exit code for it
table_run()
{
    local s failed
    if [ "${1:-1}" -gt 1 ]; then
        side_by_side "$1"
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
