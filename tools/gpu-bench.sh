#!/usr/bin/env bash
# tools/gpu_bench.py with the libraries of a bundle (tools/bundle.sh) and of CUDA's pip packages on the path.
#   tools/gpu-bench.sh [--out FILE] [--seconds S] [WORK...]      --help says more
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
bundle=${LORAC_BUNDLE:-$root/bundle}
[ -d "$bundle" ] || tar -C "$(dirname "$bundle")" -xzf "$bundle.tar.gz"
# shellcheck disable=SC1091
. "$bundle/env.sh"
exec python3 "$root/tools/gpu_bench.py" "$@"
