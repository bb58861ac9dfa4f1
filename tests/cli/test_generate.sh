. "$(dirname "$0")/lib.sh"
small_model
m=$tmp/model

done_by "help" generate --help
said "help" 'usage: lorac generate*--prompt TEXT*--temperature T*'

# --- text
done_by "prompt" generate --model "$m" --prompt "the cat" --max-new-tokens 12
cp "$tmp/out" "$tmp/greedy"
noted "no notes by default" ''
done_by "the same again" generate --model "$m" --prompt "the cat" --max-new-tokens 12 --threads 1
same "greedy text repeats" "$tmp/out" "$tmp/greedy"
printf 'the cat' >"$tmp/prompt.txt"
done_by "prompt from a file" generate --model "$m" --prompt-file "$tmp/prompt.txt" --max-new-tokens 12
same "a file's text is a prompt's" "$tmp/out" "$tmp/greedy"
done_by "verbose" generate --model "$m" --prompt "the cat" --max-new-tokens 12 --verbose
noted "verbose" '*weights: * bytes read by this rank
12 tokens in *tokens/s); ended by length'
done_by "no cap" generate --model "$m" --prompt "the cat" --max-new-tokens 1000
noted "the context's end is told" '*warning: the text ends where the model'\''s context of 256 tokens does'
for seed in 1 2; do
    done_by "seed $seed" generate --model "$m" --prompt "the cat" --max-new-tokens 40 --temperature 2 --seed $seed
    cp "$tmp/out" "$tmp/seed$seed"
    done_by "seed $seed again" generate --model "$m" --prompt "the cat" --max-new-tokens 40 --temperature 2 --seed $seed
    same "seed $seed repeats" "$tmp/out" "$tmp/seed$seed"
done
refused "a seed below 0" 2 "--seed: must be from 0 to 9223372036854775807, is -1" \
    generate --model "$m" --prompt x --temperature 1 --seed -1
cmp -s "$tmp/seed1" "$tmp/seed2" && fail "two seeds say the same"
done_by "adapter" generate --model "$m" --adapter "$tmp/adapter" --prompt "the cat" --max-new-tokens 12
cp "$tmp/out" "$tmp/unmerged"
cmp -s "$tmp/unmerged" "$tmp/greedy" && fail "the adapter changes nothing"
done_by "merge" merge --model "$m" --adapter "$tmp/adapter" --out "$tmp/merged"
done_by "merged" generate --model "$tmp/merged" --prompt "the cat" --max-new-tokens 12
same "merged and unmerged say the same" "$tmp/out" "$tmp/unmerged"

# --- a base in few bits: as flags say, or as the run that made the adapter had it
words="--prompt the --max-new-tokens 12 --temperature 2 --seed 3"
# shellcheck disable=SC2086 # words they are
for flags in none "fp4 --quant-block 4096 --single-quant" fp4; do
    done_by "the base as $flags" generate --model "$m" --adapter "$tmp/adapter" $words --quantize $flags
    noted "the base as $flags" ''
    cp "$tmp/out" "$tmp/as-${flags#* --quant-block }"
done
cp -r "$tmp/adapter" "$tmp/ran"
printf 'method: qlora\nmodel: {quantize: fp4, quant_block: 4096, double_quant: false}\n' >"$tmp/ran/config.yaml"
# shellcheck disable=SC2086
done_by "the base as in the run" generate --model "$m" --adapter "$tmp/ran" $words
same "the base as in the run" "$tmp/out" "$tmp/as-4096 --single-quant"
noted "the base as in the run" "the base is kept as fp4 in blocks of 4096, as in the run of $tmp/ran/config.yaml; --quantize none: as its files have it"
for other in none fp4; do cmp -s "$tmp/out" "$tmp/as-$other" && fail "$other says the same as the run's base"; done
refused "a block that is none" 2 "--quant-block: must be a power of two from 32 to 4096, is 48" \
    generate --model "$m" --prompt x --quantize nf4 --quant-block 48

# --- rows
cat >"$tmp/rows.jsonl" <<'ROWS'
{"id": 7, "dialogue": "A: the cat\nB: the hat", "summary": "cats", "more": [1, {"x": null}]}
{"id": 8, "dialogue": "A: an inn", "summary": "inns \u00e9", "generated": "old"}
{"id": 98765432109876543210, "dialogue": "A: there", "summary": "there"}
ROWS
done_by "rows" generate --model "$m" --data "$tmp/rows.jsonl" --format samsum --max-new-tokens 5 --out "$tmp/said.jsonl"
said "rows go to the file" ''
noted "rows" '3 rows, 15 tokens in *; ended 3 by length'
[ "$(ls "$tmp" | grep -c '^said.jsonl')" = 1 ] || fail "the file beside is left"
grep -q '^{"id": 7, "dialogue": "A: the cat\\nB: the hat", "summary": "cats", "more": \[1, *{"x": *null}\], "generated": ".*"}$' \
    "$tmp/said.jsonl" || { fail "a row is not as it was" && cat "$tmp/said.jsonl" >&2; }
grep -q '"id": 8.*"summary": "inns \\u00e9".*"generated": ".*"}$' "$tmp/said.jsonl" || fail "row 8"
grep -q '^{"id": 98765432109876543210, ' "$tmp/said.jsonl" || fail "a number is another"
grep -q old "$tmp/said.jsonl" && fail "a field of that name is replaced"
done_by "rows to standard output" generate --model "$m" --data "$tmp/rows.jsonl" --format samsum --max-new-tokens 5 \
    --batch 1 --quiet
noted "quiet" ''
same "the batch changes nothing" "$tmp/out" "$tmp/said.jsonl"
refused "a file without a name" 2 '--out: is empty, name a file' generate --model "$m" --data "$tmp/rows.jsonl" --format samsum --out ''
refused "a file's name that is too long" 2 '--out: *: File name too long' \
    generate --model "$m" --data "$tmp/rows.jsonl" --format samsum --out "$tmp/$(printf '%0300d' 1)"
refused "a file's name that leaves no room beside it" 2 '--out: *: File name too long' \
    generate --model "$m" --data "$tmp/rows.jsonl" --format samsum --out "$tmp/$(printf '%0252d' 1)"
done_by "limit" generate --model "$m" --data "$tmp/rows.jsonl" --format samsum --max-new-tokens 5 --limit 2 --out-field x
[ "$(grep -c '"x": "' "$tmp/out")" = 2 ] || fail "two rows with a field x"

# --- where rows go: through a link, and into what is no regular file (nothing is put in its place)
echo old >"$tmp/real"
ln -s real "$tmp/link"
mkfifo "$tmp/pipe"
cat "$tmp/pipe" >"$tmp/piped" &
done_by "rows by way of a link" generate --model "$m" --data "$tmp/rows.jsonl" --format samsum --max-new-tokens 5 --quiet --out "$tmp/link"
same "rows by way of a link" "$tmp/real" "$tmp/said.jsonl"
done_by "rows into a pipe" generate --model "$m" --data "$tmp/rows.jsonl" --format samsum --max-new-tokens 5 --quiet --out "$tmp/pipe"
wait
same "rows into a pipe" "$tmp/piped" "$tmp/said.jsonl"
[ -L "$tmp/link" ] && [ -p "$tmp/pipe" ] || fail "a link or a pipe was replaced"
checks=$((checks + 1))

# --- chat
echo '[{"role": "user", "content": "the cat"}]' >"$tmp/chat.json"
done_by "chat" generate --model "$m" --chat "$tmp/chat.json" --max-new-tokens 12
cp "$tmp/out" "$tmp/answer"
printf '<|im_start|>user\nthe cat<|im_end|>\n<|im_start|>assistant\n' >"$tmp/spelled"
done_by "spelled out" generate --model "$m" --prompt-file "$tmp/spelled" --specials --no-bos --max-new-tokens 12
same "a chat is its template" "$tmp/out" "$tmp/answer"
# a default system message, with an apostrophe between double quotes
cp -r "$m" "$tmp/kind"
cat >"$tmp/edit.sed" <<'SED'
s/{% for message in messages %}/&{% if loop.first and messages[0].role != 'system' %}{{ \\"<|im_start|>system\\nYou're it.<|im_end|>\\n\\" }}{% endif %}/
SED
sed -f "$tmp/edit.sed" "$m/tokenizer_config.json" >"$tmp/kind/tokenizer_config.json"
done_by "a default system message" generate --model "$tmp/kind" --chat "$tmp/chat.json" --max-new-tokens 12
cp "$tmp/out" "$tmp/kindly"
printf "<|im_start|>system\nYou're it.<|im_end|>\n" | cat - "$tmp/spelled" >"$tmp/spelled-kind"
done_by "the same spelled out" generate --model "$m" --prompt-file "$tmp/spelled-kind" --specials --no-bos --max-new-tokens 12
same "a default system message" "$tmp/out" "$tmp/kindly"
checks=$((checks + 1))
cmp -s "$tmp/kindly" "$tmp/answer" && fail "a default system message changes nothing"

# templates that only begin like ChatML: Qwen 3's, and one that trims
cp -r "$m" "$tmp/other"
for other in "'<think>' + message['content']" "message['content'] | trim"; do
    sed "s/message\['content'\]/$other/" "$m/tokenizer_config.json" >"$tmp/other/tokenizer_config.json"
    refused "a chat template like $other" 2 '--template: the tokenizer names no chat template, or one that is none of ours*' \
        generate --model "$tmp/other" --chat "$tmp/chat.json"
done
"$lorac" generate --model "$m" --chat - --max-new-tokens 12 <"$tmp/chat.json" >"$tmp/out" 2>/dev/null
same "a chat from standard input" "$tmp/out" "$tmp/answer"

# --- refusals
refused "no way" 2 'give one of --prompt, --prompt-file, --chat and --data' generate --model "$m"
refused "two ways" 2 'give one of *' generate --model "$m" --prompt x --chat y
refused "no model" 2 '--model: needs a model folder' generate --prompt x
refused "no such model" 2 '--model: /none is not a folder' generate --model /none --prompt x
refused "no such adapter" 2 '--adapter: /none is not a folder' generate --model "$m" --adapter /none --prompt x
refused "unknown flag" 2 "--temprature: no such option; did you mean '--temperature'?" generate --temprature 1
refused "greedy with top-k" 2 '--top-k: changes nothing while the choice is greedy; give --temperature above 0' \
    generate --model "$m" --prompt x --top-k 5
refused "temperature" 2 '--temperature: must be 0 (greedy), or 1e-6 to 100, got -1' generate --model "$m" --prompt x --temperature -1
refused "top-p" 2 '--top-p: must be above 0*' generate --model "$m" --prompt x --temperature 1 --top-p 0
refused "batch" 2 '--batch: must be 1 to 4096, got 0' generate --model "$m" --data "$tmp/rows.jsonl" --format samsum --batch 0
refused "max-new-tokens" 2 '--max-new-tokens: must be*' generate --model "$m" --prompt x --max-new-tokens 0
refused "empty stop" 2 '--stop: the text is empty' generate --model "$m" --prompt x --stop ''
refused "flag of another way" 2 '--format: has no meaning with --prompt' generate --model "$m" --prompt x --format samsum
refused "batch of one" 2 '--batch: has no meaning with --prompt' generate --model "$m" --prompt x --batch 4
refused "device" 2 "--device: 'tpu' is not built in; there is: *" generate --model "$m" --prompt x --device tpu
refused "format missing" 2 '--format: needs one of alpaca, *' generate --model "$m" --data "$tmp/rows.jsonl"
refused "format" 2 "--format: 'samsun' is none; did you mean 'samsum'?" \
    generate --model "$m" --data "$tmp/rows.jsonl" --format samsun
refused "template" 2 "--template: 'jinja' is none of default, llama2, *" \
    generate --model "$m" --data "$tmp/rows.jsonl" --format samsum --template jinja
refused "no data" 2 '*/none.jsonl: *' generate --model "$m" --data "$tmp/none.jsonl" --format samsum
cp -r "$m" "$tmp/own" && cp "$tmp/own/config.json" "$tmp/own.json"
refused "rows in place of the model's file" 2 "--out: $tmp/own/config.json is a file of --model $tmp/own; name another" \
    generate --model "$tmp/own" --data "$tmp/rows.jsonl" --format samsum --out "$tmp/own/config.json"
same "the model's file is as it was" "$tmp/own/config.json" "$tmp/own.json"
refused "out is a folder" 2 "--out: $tmp is a folder, name a file" \
    generate --model "$m" --data "$tmp/rows.jsonl" --format samsum --out "$tmp"
refused "out is nowhere" 2 "--out: $tmp/no/x: there is no folder $tmp/no/" \
    generate --model "$m" --data "$tmp/rows.jsonl" --format samsum --out "$tmp/no/x"
refused "out is in" 2 '--out: * is the file that is read' \
    generate --model "$m" --data "$tmp/rows.jsonl" --format samsum --out "$tmp/rows.jsonl"
printf '{"dialogue": "a", "summary": "b"}\n{"summary": "b"}\n{"dialogue": 5}\n' >"$tmp/bad.jsonl"
refused "rows" 2 '*bad.jsonl:2: dialogue: *
*bad.jsonl:3: dialogue: *' generate --model "$m" --data "$tmp/bad.jsonl" --format samsum
printf '{"dialogue": "%s", "summary": "b"}\n' "$(printf 'x%.0s' $(seq 300))" >"$tmp/long.jsonl"
refused "long prompt" 2 '*long.jsonl:1: the prompt has * tokens, which leaves no room for an answer in the model'\''s 256' \
    generate --model "$m" --data "$tmp/long.jsonl" --format samsum
printf '[%s, %s]' "$(sed -n 1p "$tmp/rows.jsonl")" "$(cat "$tmp/long.jsonl")" >"$tmp/long.json"
refused "long prompt, of many rows on a line" 2 '*long.json:1: row 2: the prompt has * tokens, which leaves *' \
    generate --model "$m" --data "$tmp/long.json" --format samsum
echo '[{"role": "user"}]' >"$tmp/chat.json"
refused "chat without content" 2 '*chat.json: message 1: content: needs a string, got nothing' \
    generate --model "$m" --chat "$tmp/chat.json"
echo '[{"role": "assistant", "content": "x"}]' >"$tmp/chat.json"
refused "nothing to answer" 2 '*chat.json: message 1: the last is the assistant*' generate --model "$m" --chat "$tmp/chat.json"
echo '{}' >"$tmp/chat.json"
refused "chat without messages" 2 '*chat.json: needs a list of messages, *' generate --model "$m" --chat "$tmp/chat.json"
echo '[{"role": "asistant", "content": "x"}]' >"$tmp/chat.json"
refused "role of nobody" 2 "*chat.json: message 1: role: 'asistant' is unknown; there are system, user and assistant" \
    generate --model "$m" --chat "$tmp/chat.json"
echo '{' >"$tmp/chat.json"
refused "chat is no JSON" 2 '*chat.json:*' generate --model "$m" --chat "$tmp/chat.json"
refused "two prefixes" 2 '--prompt-template: not together with --template' \
    generate --model "$m" --data "$tmp/rows.jsonl" --format samsum --template raw --prompt-template x
cp -r "$m" "$tmp/nan"
poison "$tmp/nan/model.safetensors"
cp -r "$m" "$tmp/listed" && echo '[]' >"$tmp/listed/generation_config.json"
refused "a generation config that is a list" 2 "$tmp/listed/generation_config.json: must hold a JSON object, found array" \
    generate --model "$tmp/listed" --prompt x
echo '{"eos_token_id": -1}' >"$tmp/listed/generation_config.json"
refused "an end token below 0" 2 "$tmp/listed/generation_config.json: eos_token_id: -1 is outside the vocabulary of *" \
    generate --model "$tmp/listed" --prompt x
refused "a weight is NaN" 2 "$tmp/nan/model.safetensors: weight model.* holds 1 values that are not finite; *" \
    generate --model "$tmp/nan" --prompt x
refused "a weight is NaN, for rows" 2 "*$tmp/nan/model.safetensors: weight model.* holds 1 values that are not finite; *" \
    generate --quiet --model "$tmp/nan" --data "$tmp/rows.jsonl" --format samsum --out "$tmp/none.jsonl"
cp -r "$m" "$tmp/long"
sed -i 's/"max_position_embeddings": [0-9]*/"max_position_embeddings": 200000000/' "$tmp/long/config.json"
i=0 && while [ $i -lt 500 ]; do sed -n 1p "$tmp/rows.jsonl" && i=$((i + 1)); done >"$tmp/many.jsonl"
out_of_memory "many long sequences" 'a smaller --batch or a smaller --max-new-tokens' \
    generate --model "$tmp/long" --data "$tmp/many.jsonl" --format samsum --max-new-tokens 50000 --batch 500
rm "$tmp/model/model.safetensors"
refused "no weights" 2 '*model.safetensors*' generate --model "$m" --prompt x

# --- a trained model, where it lies beside the project
stories=$shared/data/stories260k
if [ -d "$stories" ]; then
    done_by "stories" generate --model "$stories" --prompt '' --max-new-tokens 200
    { cat "$stories/expected_greedy.txt" && echo; } >"$tmp/expected"
    same "greedy text of stories260k" "$tmp/out" "$tmp/expected"
    done_by "stop" generate --model "$stories" --prompt '' --max-new-tokens 200 --stop 'red ball' --stop 'nowhere'
    said "the text ends before the stop string" 'Once upon a time, * she saw a big, '
    done_by "stories go on" generate --model "$stories" --prompt 'Once upon a' --max-new-tokens 3
    said "a continued text keeps its space" ' time, there'
else
    echo "skipped: the greedy text of stories260k ($stories is not here)" >&2
fi
finish
