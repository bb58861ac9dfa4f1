#!/bin/sh
# Installs what lorac needs on Debian 12 or Ubuntu 24.04 and what is not there yet, by package name.
set -eu
usage="usage: scripts/install-deps.sh [--tests | --dev]
  (no option)  what building lorac needs
  --tests      also what its test suite needs
  --dev        also what scripts/test.sh needs: clang, clang-format 14 and, for a test under it, Slurm"

packages="gcc libc6-dev meson ninja-build pkg-config libyaml-dev libjansson-dev libpcre2-dev libopenblas-dev zlib1g-dev
libopenmpi-dev openmpi-bin"
case "${1:-}" in
"") ;;
--tests) packages="$packages libcriterion-dev g++ python3" ;;
--dev) packages="$packages libcriterion-dev g++ python3 clang clang-format-14 slurm-wlm munge" ;;
--help) echo "$usage"; exit 0 ;;
*) echo "$usage" >&2; exit 2 ;;
esac

if ! command -v apt-get >/dev/null; then
    echo "no apt-get here: install by your system's means: $packages" >&2
    exit 1
fi
missing=
for p in $packages; do
    dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'install ok installed' || missing="$missing $p"
done
# A virtual package (pkg-config on Ubuntu is one of pkgconf's names) is there when its program is.
case "$missing" in *pkg-config*) command -v pkg-config >/dev/null && missing=$(echo "$missing" | sed 's/ pkg-config//') ;; esac
[ -n "$missing" ] || exit 0

as_root=
if [ "$(id -u)" != 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "missing packages and no way to become root; run as root: apt-get install$missing" >&2
        exit 1
    fi
    as_root=sudo
fi
echo "installing:$missing"
$as_root apt-get -qq update
# shellcheck disable=SC2086 # the list is meant to fall apart into names
$as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install $missing >/dev/null
