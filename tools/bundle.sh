#!/usr/bin/env bash
# Makes a folder that runs on another x86-64 machine with glibc as new as this one's: the program, the tests that say
# something about a GPU (tests/gpu) and the shared libraries that a GPU host may lack.  CUDA's own libraries stay out:
# they belong to that machine's driver and toolkit (or its pip packages, which env.sh finds); and so do the C and C++
# runtimes, which those need in their own version.
#
#   tools/bundle.sh [BUILD [OUT]]      default: build bundle; OUT.tar.gz: packed, a third of the size
#   . bundle/env.sh && bundle/bin/lorac --version
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
build=${1:-$root/build}
packed=${2:-$root/bundle}
out=${packed%.tar.gz}
rm -rf "$out"
mkdir -p "$out/bin" "$out/lib"

for program in cli/lorac tests/gpu/gpu_tests tests/gpu/write_for_peft tests/dist/comm_ranks; do
    [ -x "$build/$program" ] || { echo "$build/$program is not there: build first" >&2; exit 1; }
    cp "$build/$program" "$out/bin/"
done

# every library that the programs load, but for the C library's and CUDA's
for f in "$out"/bin/*; do ldd "$f"; done | awk '$2 == "=>" && $3 ~ /^\// {print $3}' | sort -u |
    grep -vE '/(libc|libm|libpthread|libdl|librt|ld-linux[^/]*|libresolv|libutil|libgcc_s|libstdc\+\+)\.so' |
    grep -vE '/(libcuda|libcudart|libcublas|libcublasLt|libcudnn|libnccl|libnvrtc|libnvidia)[^/]*\.so' |
    while read -r lib; do cp -L "$lib" "$out/lib/"; done

strip --strip-debug "$out"/bin/*

cat > "$out/env.sh" <<'ENV'
# Source this: library paths of the bundle and of CUDA's pip packages, where there are any.
here=$(cd "$(dirname "${BASH_SOURCE[0]:-$0}")" && pwd)
pip_cuda=$(python3 -c 'import nvidia,glob,os;print(":".join(d for r in nvidia.__path__ for d in glob.glob(os.path.join(r,"*","lib"))))' 2>/dev/null || true)
export LD_LIBRARY_PATH="$here/lib${pip_cuda:+:$pip_cuda}${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
export PATH="$here/bin:$PATH"
export NCCL_NVLS_ENABLE=${NCCL_NVLS_ENABLE:-0}
ENV
if [ "$packed" != "$out" ]; then
    tar -C "$(dirname "$out")" -czf "$packed" "$(basename "$out")"
    rm -rf "$out"
fi
du -sh "$packed" | awk '{print "bundle: " $1}'
