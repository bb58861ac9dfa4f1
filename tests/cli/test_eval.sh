. "$(dirname "$0")/lib.sh"
small_model
m=$tmp/model
golden=$root/tests/fixtures/golden/llama2-tiny

done_by "help" eval --help
said "help" 'usage: lorac eval*--baseline NAME*'

# --- loss: the reference run's first step had these two rows
done_by "loss" eval --model "$m" --data "$golden/batches.jsonl" --format tokens --limit 2
said "loss" 'rows        2
tokens      96
trained     52
loss        6.5786*
perplexity  719.*'
done_by "json" eval --model "$m" --data "$golden/batches.jsonl" --format tokens --limit 2 --json --out "$tmp/rows.jsonl"
said "json" '{"rows": 2, "tokens": 96, "trained_tokens": 52, "loss": 6.57863*, "perplexity": 719.*}'
[ "$(grep -c '"line": [12], "loss": 6\.[0-9]*, "trained_tokens": [0-9]*}$' "$tmp/rows.jsonl")" = 2 ] || fail "two rows with their losses"
cp "$tmp/out" "$tmp/base"
done_by "adapter" eval --model "$m" --adapter "$tmp/adapter" --data "$golden/batches.jsonl" --format tokens --json
cp "$tmp/out" "$tmp/unmerged"
done_by "without it" eval --model "$m" --data "$golden/batches.jsonl" --format tokens --json
cat "$tmp/unmerged" "$tmp/out" | sed 's/.*"loss": \([0-9.]*\).*/\1/' |
    awk 'NR == 1 { tuned = $1 } NR == 2 && tuned < $1 - 0.1 { better = 1 } END { exit !better }' ||
    fail "the adapter is no better on what it was trained on"
done_by "merge" merge --model "$m" --adapter "$tmp/adapter" --out "$tmp/merged" --quiet
said "merge --quiet" ''
done_by "merged" eval --model "$tmp/merged" --data "$golden/batches.jsonl" --format tokens --json
loss='s/.*"loss": \([0-9]*\.[0-9]\{4\}\).*/\1/'
[ "$(sed "$loss" "$tmp/out")" = "$(sed "$loss" "$tmp/unmerged")" ] || fail "merged and unmerged differ in loss" && :

# --- ROUGE
cat >"$tmp/val.jsonl" <<'ROWS'
{"dialogue": "Ann: the cat sat on a mat\r\nBob: where?", "summary": "The cat sat on the mat."}
{"dialogue": "\nBob: running late\nAnn: ok", "summary": "Bob runs late."}
ROWS
done_by "baseline" eval --baseline first-turn --data "$tmp/val.jsonl" --format samsum --out "$tmp/scores.jsonl"
said "baseline" 'rows        2
            precision  recall  F
rouge1      0.6905     0.7500  0.7179
rouge2      0.2500     0.3000  0.2727
rougeL      0.6905     0.7500  0.7179
rougeLsum   0.6905     0.7500  0.7179
ROUGE as rouge_score computes it, without stemming; plain means over the rows *'
grep -q '"prediction": "Ann: the cat sat on a mat", "reference": "The cat sat on the mat."}$' "$tmp/scores.jsonl" ||
    fail "the first turn, without its line end"
grep -q '"line": 2,.*"prediction": "Bob: running late"' "$tmp/scores.jsonl" || fail "an empty line is no turn"
done_by "stemmed baseline" eval --baseline first-turn --data "$tmp/val.jsonl" --format samsum --stem --json
said "stemmed" '{"rows": 2, "rouge1": {"precision": 0.857*"stemming": true}'
done_by "rouge" eval --model "$m" --data "$tmp/val.jsonl" --format samsum --rouge --max-new-tokens 4 --json \
    --out "$tmp/scores.jsonl"
said "rouge" '{"rows": 2, "tokens": *"loss": *"rougeLsum": {*"stemming": false}'
grep -q '"loss": .*"rougeLsum": .*"prediction": .*"reference": "Bob runs late."}$' "$tmp/scores.jsonl" || fail "a row's scores"
noted "rouge" '*2 rows, 8 tokens in *'

# --- a training config
cat >"$tmp/c.yaml" <<YAML
model: {path: $m}
output: $tmp/out-dir
data: {train: $tmp/val.jsonl, eval: $golden/batches.jsonl, format: tokens, max_length: 64}
YAML
done_by "config" eval --config "$tmp/c.yaml" --limit 2 --json
same "config" "$tmp/out" "$tmp/base"
done_by "override" eval --config "$tmp/c.yaml" data.max_length=200 --limit 2 --json
same "override" "$tmp/out" "$tmp/base"
refused "config with an error" 2 "command line: data.max_lenght: unknown key; did you mean 'data.max_length'?" \
    eval --config "$tmp/c.yaml" data.max_lenght=3

# --- weights that are no numbers: the file is to blame, not the row
cp -r "$m" "$tmp/nan" && cp -r "$tmp/adapter" "$tmp/nan-adapter"
poison "$tmp/nan/model.safetensors"
poison "$tmp/nan-adapter/adapter_model.safetensors"
damaged="holds 1 values that are not finite; the file is damaged or its training went wrong: take an earlier one"
refused "a weight is NaN" 2 "$tmp/nan/model.safetensors: weight model.* $damaged" \
    eval --model "$tmp/nan" --data "$golden/batches.jsonl" --format tokens
refused "an adapter is NaN" 2 "$tmp/nan-adapter/adapter_model.safetensors: weight base_model.model.*lora_B.weight $damaged" \
    eval --model "$m" --adapter "$tmp/nan-adapter" --data "$golden/batches.jsonl" --format tokens
sed 's/"lora_alpha": 16/"lora_alpha": 1e30/' "$tmp/adapter/adapter_config.json" >"$tmp/nan-adapter/adapter_config.json"
cp "$tmp/adapter/adapter_model.safetensors" "$tmp/nan-adapter"
refused "finite weights that overflow" 1 "$golden/batches.jsonl:1: the loss is not finite, though every weight is: numbers overflow on the way" \
    eval --model "$m" --adapter "$tmp/nan-adapter" --data "$golden/batches.jsonl" --format tokens
printf '[%s]' "$(sed -n '1,2p' "$golden/batches.jsonl" | paste -sd,)" >"$tmp/array.json"
refused "finite weights that overflow, of many rows on a line" 1 "$tmp/array.json:1: row 1: the loss is not finite, though *" \
    eval --model "$m" --adapter "$tmp/nan-adapter" --data "$tmp/array.json" --format tokens
done_by "many rows on a line" eval --model "$m" --data "$tmp/array.json" --format tokens --out "$tmp/scores.jsonl"
grep -q '"line": 1, "row": 2, "loss": ' "$tmp/scores.jsonl" || fail "which row of a line"

# --- refusals
refused "nothing" 2 'give one of --data and --config' eval --model "$m"
refused "both" 2 'give one of --data and --config' eval --config "$tmp/c.yaml" --data x
refused "argument" 2 "'x=y': one argument too many; key=value goes with --config" \
    eval x=y --model "$m" --data "$tmp/val.jsonl" --format samsum
refused "no model" 2 '--model: needs a model folder' eval --data "$tmp/val.jsonl" --format samsum
refused "flag of rouge" 2 '--temperature: has no meaning without --rouge' \
    eval --model "$m" --data "$tmp/val.jsonl" --format samsum --temperature 1
refused "flag beside a baseline" 2 '--model: has no meaning beside --baseline' \
    eval --baseline first-turn --model "$m" --data "$tmp/val.jsonl" --format samsum
refused "out is a folder" 2 "--out: $tmp is a folder, name a file" \
    eval --model "$m" --data "$tmp/val.jsonl" --format samsum --out "$tmp"
refused "out is in" 2 '--out: * is the file that is read' \
    eval --baseline first-turn --data "$tmp/val.jsonl" --format samsum --out "$tmp/val.jsonl"
refused "threads" 2 '--threads: must be 0 (all) to 4096, got -1' \
    eval --model "$m" --data "$tmp/val.jsonl" --format samsum --threads -1
for n in 0 1 -5; do
    refused "rows of $n tokens" 2 "--max-length: must be 2 or more, got $n" \
        eval --model "$m" --data "$tmp/val.jsonl" --format samsum --max-length $n
done
refused "stem alone" 2 '--stem: has no meaning without --rouge' eval --model "$m" --data "$tmp/val.jsonl" --format samsum --stem
refused "baseline" 2 "--baseline: 'lead-3' is none; there is first-turn" \
    eval --baseline lead-3 --data "$tmp/val.jsonl" --format samsum
refused "baseline of tokens" 2 '--baseline: first-turn needs --format samsum, not tokens' \
    eval --baseline first-turn --data "$golden/batches.jsonl" --format tokens
"$lorac" eval --model "$m" --data "$tmp/val.jsonl" --format samsum --max-length 9999 2>&1 |
    grep -q "warning: --max-length: 9999 tokens are more than the 256 positions of the model" || fail "max-length warns"
refused "too long" 2 '*val.jsonl:1: the document has * tokens, max_length is 20; *' \
    eval --model "$m" --data "$tmp/val.jsonl" --format samsum --max-length 20
refused "overlong" 2 "--overlong: 'cut' is none of error, truncate, split" \
    eval --model "$m" --data "$tmp/val.jsonl" --format samsum --overlong cut
echo '{"input_ids": [1, 600], "labels": [-100, 600]}' >"$tmp/bad.jsonl"
refused "tokens outside" 2 '*bad.jsonl:1: input_ids?1?: 600 is outside the model*' \
    eval --model "$m" --data "$tmp/bad.jsonl" --format tokens
echo '[{"input_ids": [1, 2]}, {"input_ids": [1, 600]}]' >"$tmp/bad.json"
refused "tokens outside, of many rows on a line" 2 '*bad.json:1: row 2: input_ids?1?: 600 is outside the model*' \
    eval --model "$m" --data "$tmp/bad.json" --format tokens
cat >"$tmp/bad.json" <<'ROWS'
[{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
 {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, {"messages": [
    {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]}]
ROWS
refused "no answer, of many rows on a line" 2 '*bad.json:2: row 3: has no answer to compare with' \
    eval --model "$m" --data "$tmp/bad.json" --format messages --template chatml --rouge
done_by "split without a tokenizer" eval --model "$m" --data "$golden/batches.jsonl" --format tokens --limit 2 \
    --max-length 20 --overlong split
q="eval --model $golden --data $golden/batches.jsonl --format tokens --limit 4 --json --quiet"
# shellcheck disable=SC2086 # words they are
for flags in "" "--int8-outliers 6" "--int8-outliers 0.01" "--adapter $golden/dora_final --int8-outliers 1.5"; do
    done_by "int8 $flags" $q --quantize int8 $flags
    sed -n 's/.*"loss": \([0-9.]*\),.*/\1/p' "$tmp/out" >>"$tmp/losses"
done
# weights in 8 bits; inputs too, but for few columns; no column coded, so the first again but for rounding; with an adapter
checks=$((checks + 1))
awk 'function off(a, b) { return a > b ? a - b : b - a }
    { x[NR] = $1 } END { exit !(NR == 4 && x[2] != x[1] && off(x[2], x[1]) < 0.02 && off(x[3], x[1]) < 1e-4 && x[4] < x[1] - 0.1) }' \
    "$tmp/losses" || fail "losses with outliers apart: $(tr '\n' ' ' <"$tmp/losses")"
# shellcheck disable=SC2086
refused "outliers of nf4" 2 "--int8-outliers: the base is kept as nf4; it is for int8 (--quantize int8)" $q --quantize nf4 --int8-outliers 6
# shellcheck disable=SC2086
refused "no threshold" 2 "--int8-outliers: must be above 0, is 0" $q --quantize int8 --int8-outliers 0
refused "a threshold below 0" 2 "--int8-outliers: must be above 0, is -1" $q --quantize int8 --int8-outliers -1
echo '{"dialogue": "A: x"}' >"$tmp/bad.jsonl"
refused "no answer" 2 '*bad.jsonl:1: summary: *' eval --model "$m" --data "$tmp/bad.jsonl" --format samsum
cp -r "$tmp/adapter" "$tmp/folder" && rm "$tmp/folder/adapter_model.safetensors" && mkdir "$tmp/folder/adapter_model.safetensors"
refused "adapter whose tensors are a folder" 2 "$tmp/folder/adapter_model.safetensors: is a folder, a file is needed" \
    eval --model "$m" --adapter "$tmp/folder" --data "$golden/batches.jsonl" --format tokens
refused "adapter of another model" 2 '*lora_final/adapter_model.safetensors: *' \
    eval --model "$m" --adapter "$root/tests/fixtures/golden/llama3-tiny/lora_final" --data "$tmp/val.jsonl" --format samsum
cp -r "$m" "$tmp/own" && cp "$tmp/own/config.json" "$tmp/own.json"
refused "a result in place of the model's file" 2 "--out: $tmp/own/config.json is a file of --model $tmp/own; name another" \
    eval --model "$tmp/own" --data "$tmp/val.jsonl" --format samsum --out "$tmp/own/config.json"
same "the model's file is as it was" "$tmp/own/config.json" "$tmp/own.json"
echo '{"input_ids": [1, 2, 3], "labels": [-100, 2, 1000000]}' >"$tmp/labels.jsonl"
refused "a label that is no token" 2 "$tmp/labels.jsonl:1: labels?2?: 1000000 is *" \
    eval --model "$root/tests/fixtures/models/llama2-d64" --data "$tmp/labels.jsonl" --format tokens
cp -r "$m" "$tmp/long"
sed -i 's/"max_position_embeddings": [0-9]*/"max_position_embeddings": 200000000/' "$tmp/long/config.json"
i=0 && while [ $i -lt 500 ]; do sed -n 1p "$tmp/val.jsonl" && i=$((i + 1)); done >"$tmp/many.jsonl"
out_of_memory "many long answers" 'a smaller --batch or a smaller --max-new-tokens' \
    eval --model "$tmp/long" --data "$tmp/many.jsonl" --format samsum --rouge --max-new-tokens 50000 --batch 500
for i in 1 2 3 4 5 6 7 8 9 10 11 12; do cat "$tmp/many.jsonl"; done >"$tmp/more.jsonl"
sed -e "s|val.jsonl|more.jsonl|; s|eval: .*batches.jsonl|eval: $tmp/more.jsonl|; s|format: tokens|format: samsum|; s|max_length: 64|max_length: 512|" \
    "$tmp/c.yaml" >"$tmp/many.yaml"
out_of_memory "many rows at once" 'a smaller eval.tokens or a smaller data.max_length' eval --config "$tmp/many.yaml" eval.tokens=1000000

# --- a base that its run quantised
plain=$root/tests/fixtures/quant/plain
for i in 1 2 3 4 5 6; do echo "{\"input_ids\": [1, $i, $((i + 9)), $((40 - i)), 2]}"; done >"$tmp/ids.jsonl"
cat >"$tmp/q.yaml" <<YAML
model: {path: $plain, quantize: fp4, quant_block: 32, double_quant: false}
method: qlora
lora: {rank: 4}
data: {train: $tmp/ids.jsonl, eval: $tmp/ids.jsonl, format: tokens, max_length: 16, train_on: all}
optim: {lr: 1e-2}
train: {max_steps: 4}
eval: {at_end: true}
save: {every: 4}
output: $tmp/q
YAML
done_by "a qlora run" train "$tmp/q.yaml"
last=$(sed -n 's/.*"eval_loss": \([0-9.]*\),.*/\1/p' "$tmp/q/metrics.jsonl")
loses() # NAME ARGS...: eval of the run's rows says the run's last eval_loss
{
    done_by "$@" --json
    [ "$(sed -n 's/.*"loss": \([0-9.]*\),.*/\1/p' "$tmp/out")" = "$last" ] || { fail "$1: not the run's $last" && show; }
}
q="eval --model $plain --data $tmp/ids.jsonl --format tokens --train-on all"
# shellcheck disable=SC2086 # words they are
{
    loses "the run's config" eval --config "$tmp/q/config.yaml" --adapter "$tmp/q"
    noted "the run's config" ''
    loses "a config without the record" eval --config "$tmp/q.yaml" --adapter "$tmp/q/checkpoint-4"
    loses "the adapter's record" $q --adapter "$tmp/q"
    noted "the adapter's record" "the base is kept as fp4 in blocks of 32, as in the run of $tmp/q/config.yaml; --quantize none: as its files have it"
    loses "a checkpoint's" $q --adapter "$tmp/q/checkpoint-4"
    mkdir "$tmp/bare" && cp "$tmp"/q/adapter_* "$tmp/bare"
    loses "flags" $q --adapter "$tmp/bare" --quantize fp4 --quant-block 32 --single-quant
    done_by "as the files have it" $q --adapter "$tmp/q" --quantize none --json
    cp "$tmp/out" "$tmp/none"
    done_by "nobody knows" $q --adapter "$tmp/bare" --json
    same "nobody knows" "$tmp/out" "$tmp/none"
    grep -q "\"loss\": $last," "$tmp/none" && fail "the unquantised base has the same loss"
    refused "a block that is none" 2 "--quant-block: must be a power of two from 32 to 4096, is 0" $q --quantize nf4 --quant-block 0
    refused "a block of rows" 2 "--quant-block: only with --quantize nf4 or fp4" $q --quantize int8 --quant-block 64
    refused "single rows" 2 "--single-quant: only with --quantize nf4 or fp4" $q --single-quant
}
refused "a block beside a baseline" 2 "--quant-block: has no meaning beside --baseline" \
    eval --baseline first-turn --data "$tmp/val.jsonl" --format samsum --quant-block 64
finish
