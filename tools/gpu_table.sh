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

# table_run: each section is a function; the table again at the end, with the exit code for it
table_run()
{
    local s failed
    for s in $sections; do
        echo "== $s"
        "$s"
    done
    echo
    echo "== table"
    cat "$table"
    failed=$(grep -c '^FAIL' "$table")
    echo "$(grep -c '^PASS' "$table") passed, $failed failed, $(grep -c '^SKIP' "$table") skipped in $SECONDS s; logs in $out"
    [ "$failed" = 0 ] && grep -q '^PASS' "$table"
}
