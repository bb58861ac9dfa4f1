#!/usr/bin/env bash
# tools/gpu_bench.py with the libraries of a bundle (tools/bundle.sh) and of CUDA's pip packages on the path.
#   tools/gpu-bench.sh [--out FILE] [--seconds S] [WORK...]      --help says more
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=tools/gpu_table.sh
. "$root/tools/gpu_table.sh"
bundle_env
exec python3 "$root/tools/gpu_bench.py" "$@"
