# Sourced by the style checks: the C and CUDA sources of the tree, tracked or about to be, one a line.
# Outside git (a release archive) it is what lies there.
sources() # [PATTERN...]
{
    if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
        git ls-files -co --exclude-standard -- "$@" | while read -r f; do [ -e "$f" ] && echo "$f"; done
    else
        for p in "$@"; do find . -path './build*' -prune -o -name "$p" -print; done | sed 's|^\./||'
    fi | sort -u
}
