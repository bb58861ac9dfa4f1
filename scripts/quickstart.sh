#!/bin/sh
# The quick start: from a bare machine to a tuned model.  Installs what is missing (by package name), builds, trains a small
# Llama from scratch, tunes it with LoRA to summarise dialogues, measures it on held-out ones before and after, merges the
# adapter and shows three summaries.  Everything it writes lies in build/ and quickstart-out/.
set -eu
cd "$(dirname "$0")/.."
case "${1:-}" in
"") seed=42 ;;
--seed) seed=${2:?--seed needs a number} ;;
*) echo "usage: scripts/quickstart.sh [--seed N]" >&2; exit 2 ;;
esac
out=quickstart-out
data=configs/quickstart/data
heldout=$data/heldout.jsonl
began=$(date +%s)

say() # TEXT: a heading with the seconds so far
{
    printf '\n== %s  [%d s]\n' "$1" $(($(date +%s) - began))
}

run() # COMMAND...: shows a lorac command, then runs it
{
    printf '$ lorac'
    printf ' %s' "$@"
    printf '\n'
    "$lorac" "$@"
}

field() # NAME < a row of JSON: a text that holds no quote
{
    sed -n "s/.*\"$1\": \"\([^\"]*\)\".*/\1/p"
}

scores() # FILE: loss and the F of ROUGE-1, 2, L of an evaluation
{
    sed -n 's/.*"loss": \([0-9.]*\).*/\1/p; t; s/.*/-/p' "$1"
    for kind in rouge1 rouge2 rougeL; do
        sed "s/.*\"$kind\": {[^}]*\"f\": \([0-9.e-]*\)}.*/\1/" "$1"
    done
}

say "Installing what is missing"
scripts/install-deps.sh

say "Building"
[ -f build/build.ninja ] || meson setup build >/dev/null
ninja -C build --quiet cli/lorac
lorac=build/cli/lorac
rm -rf "$out"
mkdir "$out"

say "A small Llama from scratch, trained on short texts: the base"
run train configs/quickstart/base.yaml log.every=200 train.seed="$seed"

say "The base, not tuned yet, summarises the held-out dialogues"
measure="--data $heldout --format samsum --rouge --max-new-tokens 40 --json --quiet"
# shellcheck disable=SC2086 # the options are meant to fall apart
"$lorac" eval --model $out/base $measure >$out/before.json
"$lorac" eval --baseline first-turn --data $heldout --format samsum --json --quiet >$out/first-turn.json
echo "$(wc -l <$heldout) dialogues, none of them in the training rows"

say "LoRA on $(wc -l <$data/train.jsonl) dialogues with summaries"
run train configs/quickstart/lora.yaml log.every=50 train.seed="$seed"
# shellcheck disable=SC2086
"$lorac" eval --model $out/base --adapter $out/lora $measure >$out/after.json

say "The adapter folded into the base"
run merge --model $out/base --adapter $out/lora --out $out/merged >$out/merge.log
tail -n 1 $out/merge.log

say "Three held-out dialogues, summarised by the merged model"
"$lorac" generate --model $out/merged --data $heldout --format samsum --limit 3 --max-new-tokens 40 --quiet |
    while IFS= read -r row; do
        printf '%b\n' "$(printf '%s\n' "$row" | field dialogue)"
        printf '    summary    %s\n' "$(printf '%s\n' "$row" | field generated)"
        printf '    reference  %s\n\n' "$(printf '%s\n' "$row" | field summary)"
    done

say "Held-out dialogues before and after"
{
    echo "the_first_turn_itself $(scores $out/first-turn.json | tr '\n' ' ')"
    echo "the_base,_not_tuned $(scores $out/before.json | tr '\n' ' ')"
    echo "tuned_with_LoRA $(scores $out/after.json | tr '\n' ' ')"
} | awk '
    BEGIN { printf "%-24s %8s %8s %8s %8s\n", "", "loss", "ROUGE-1", "ROUGE-2", "ROUGE-L" }
    {
        gsub("_", " ", $1)
        loss = $2 == "-" ? "" : sprintf("%.4f", $2)
        printf "%-24s %8s %8.4f %8.4f %8.4f\n", $1, loss, $3, $4, $5
        rouge[NR] = $5
    }
    END {
        if (rouge[3] < rouge[2] + 0.20 || rouge[3] < rouge[1] + 0.05) {
            print "ROUGE-L after tuning should be 0.20 above the base and 0.05 above the first turn: it is not"
            exit 1
        }
    }'
printf '\nDone in %d s.  Try: %s generate --model %s/merged --prompt "Anna: Hi Ben"\n' $(($(date +%s) - began)) "$lorac" "$out"
