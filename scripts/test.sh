#!/bin/sh
# All checks: style, a build with gcc and one with clang without a warning, every suite, and the unit suites
# under AddressSanitizer and UndefinedBehaviorSanitizer.  Installs what is missing (by package name).  The
# last line counts: N passed, N failed, N skipped.
set -u
cd "$(dirname "$0")/.." || exit 1
jobs=$(nproc)
failed=""

step() # NAME COMMAND...: runs it, shows its output only when it fails, says how long it took
{
    name=$1 start=$(date +%s)
    shift
    if "$@" >"$log" 2>&1; then verdict=ok; else verdict=FAILED failed="$failed; $name"; fi
    [ $verdict = ok ] || cat "$log"
    printf '%-52s %-6s %4d s\n' "$name" $verdict $(($(date +%s) - start))
    [ $verdict = ok ]
}

build() # FOLDER COMPILER MESON-OPTIONS...
{
    folder=$1 compiler=$2
    shift 2
    [ -f "$folder/build.ninja" ] || CC=$compiler meson setup "$folder" -Dwerror_all=true -Dtests=enabled "$@" || return 1
    ninja -C "$folder" -j "$jobs"
}

suites() # FOLDER MESON-TEST-OPTIONS...
{
    folder=$1
    shift
    rm -f "$folder/meson-logs/testlog.json"
    meson test -C "$folder" --no-rebuild --num-processes "$jobs" --print-errorlogs "$@"
}

log=$(mktemp) || exit 1
trap 'rm -f "$log"' EXIT
scripts/install-deps.sh --dev || exit 1

# -O1: sanitized code is compiled faster and its reports are clearer; what UBSan finds ends the test.
step "build with gcc, warnings are errors" build build-gcc gcc
step "build with clang, warnings are errors" build build-clang clang -Dcuda=disabled
step "build with gcc, ASan and UBSan" build build-asan gcc -Dcuda=disabled -Db_sanitize=address,undefined -Doptimization=1 \
    -Dc_args=-fno-sanitize-recover=undefined
step "all suites" suites build-gcc
step "unit suites under ASan and UBSan" suites build-asan --suite unit
# a leak that is found when a test's process ends does not fail the test by itself
no_leaks()
{
    ! grep -A 12 'LeakSanitizer' build-asan/meson-logs/testlog.txt
}
step "no leaks" no_leaks

[ -z "$failed" ] || echo "failed${failed#;}"
python3 tools/test_summary.py build-gcc build-asan
counted=$?
[ -z "$failed" ] && [ $counted = 0 ]
