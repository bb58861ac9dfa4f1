#!/bin/sh
# Fails when a header does not compile alone, without a warning: as C, and as C++ too where a .cu file
# sees it (what the .cu and .cuh files include, and the headers that are open to them by design).
set -u
cd "$(dirname "$0")/.." || exit 1
. tools/sources.sh

cc=${CC:-cc}
cxx=${CXX:-c++}
# Headers of the CUDA column need nvcc; the build compiles them.
headers=$(sources '*.h' | grep -v '^kernels/cuda/')
for_cuda=$(
    {
        echo "$headers" | grep -E '^(base/err|base/rng|tensor/.*|kernels/kernels)\.h$'
        sources '*.cu' '*.cuh' | xargs -r sed -n 's/^[ \t]*#[ \t]*include "\([^"]*\.h\)".*/\1/p' | grep -v '^kernels/cuda/'
    } | sort -u)

failed=0
alone() # HEADER LANGUAGE COMPILER FLAGS...
{
    header=$1 language=$2
    shift 2
    echo "#include \"$header\"" | "$@" -fsyntax-only -I. -x "$language" -Wall -Wextra -Wno-unused-parameter -Werror - ||
        { echo "$header: does not compile alone as $language"; failed=1; }
}

for h in $headers; do
    alone "$h" c $cc -std=gnu17 -Wpedantic
done
if command -v "$cxx" >/dev/null; then
    for h in $for_cuda; do
        alone "$h" c++ "$cxx" -std=c++17
    done
else
    echo "not checked as C++: no compiler '$cxx'"
fi
exit $failed
