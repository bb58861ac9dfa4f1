# Every config of the tree is a whole one, and the quick start's pair trains, merges and is measured: a few steps of
# what scripts/quickstart.sh does.
. "$(dirname "$0")/lib.sh"
case $lorac in /*) ;; *) lorac=$PWD/$lorac ;; esac
cd "$root" || exit 1 # the paths in a config are relative to where it is run

made=$tmp/made
done_by 'the base, two steps' train configs/quickstart/base.yaml train.max_steps=2 data.shuffle=false output="$made/base"
for config in $(find configs -name '*.yaml' | sort); do
    # a config that goes on from another's output is checked against the one just made
    case $config in
    # a recipe's model and data are not here: its plan must be what its first lines say
    configs/llama-*)
        plan=$(sed -n 's/^# without the weights: lorac //p' "$config")
        peak=$(sed -n 's/^# Peak of a GPU: \([0-9.]*\) GiB.*/\1/p' "$config")
        # shellcheck disable=SC2086 # the words of a command
        done_by "$config" $plan
        said "the peak of $config" "*fits h200*"
        said "the peak of $config" "*  total *$peak *"
        ;;
    configs/quickstart/lora.yaml) done_by "$config" check "$config" model.path="$made/base" ;;
    *) done_by "$config" check "$config" ;;
    esac
done
# The batch scripts are what lorac slurm prints.
for script in configs/slurm/*.sbatch; do
    made_by=$(sed -n 's/^# Made by: lorac //p' "$script")
    # shellcheck disable=SC2086
    done_by "$script" $made_by
    same "$script" "$script" "$tmp/out"
done
done_by 'the adapter, two steps' train configs/quickstart/lora.yaml train.max_steps=2 model.path="$made/base" output="$made/lora"
done_by 'the merge' merge --model "$made/base" --adapter "$made/lora" --out "$made/merged"
heldout=configs/quickstart/data/heldout.jsonl
done_by 'measured' eval --model "$made/merged" --data $heldout --format samsum --rouge --max-new-tokens 4 --limit 3 --json --quiet
said 'loss and ROUGE-L, as scripts/quickstart.sh reads them' '*"loss": *"rougeL": {*"f": *}*'
done_by 'the first turn' eval --baseline first-turn --data $heldout --format samsum --json --quiet
said 'ROUGE without a loss' '{"rows": 60, "rouge1": {*"f": *}*'

finish
