. "$(dirname "$0")/lib.sh"
small_model
m=$tmp/model

done_by "help" merge --help
said "help" 'usage: lorac merge*'
echo 'a note' >"$m/NOTES.txt"
done_by "merge" merge --model "$m" --adapter "$tmp/adapter" --out "$tmp/merged"
said "merge" 'tensor * rank  |delta|     survived
*model.layers.1.self_attn.q_proj.weight  8     *
*/merged: 14 of 21 tensors merged; 100.000% of the change survived the rounding'
for f in config.json generation_config.json tokenizer.json tokenizer_config.json NOTES.txt; do
    same "every other file is copied" "$m/$f" "$tmp/merged/$f"
done
cmp -s "$m/model.safetensors" "$tmp/merged/model.safetensors" && fail "the weights did not change"
done_by "json" merge --model "$m" --adapter "$tmp/adapter" --out "$tmp/merged2" --json --threads 1
said "json" '{"tensors": 21, "merged": 14, "replaced": 0, "untied": false, "survived": *, "changes": \[{"name": "model.*}\]}'
same "the threads change nothing" "$tmp/merged/model.safetensors" "$tmp/merged2/model.safetensors"

refused "no model" 2 '--model: needs a folder' merge --adapter "$tmp/adapter" --out "$tmp/x"
refused "no adapter" 2 '--adapter: needs a folder' merge --model "$m" --out "$tmp/x"
refused "no out" 2 '--out: needs a folder to write' merge --model "$m" --adapter "$tmp/adapter"
refused "no such adapter" 2 '--adapter: /none is not a folder' merge --model "$m" --adapter /none --out "$tmp/x"
refused "out is taken" 2 '*/merged: is not empty; name a new folder' \
    merge --model "$m" --adapter "$tmp/adapter" --out "$tmp/merged"
refused "adapter of another model" 2 '*lora_final/adapter_model.safetensors: *lora_A.weight: has shape \[8, 96\], *' \
    merge --model "$m" --adapter "$root/tests/fixtures/golden/llama3-tiny/lora_final" --out "$tmp/x"
cp -r "$tmp/adapter" "$tmp/huge" && sed 's/"lora_alpha": 16/"lora_alpha": 1e45/' "$tmp/adapter/adapter_config.json" >"$tmp/huge/adapter_config.json"
refused "a merge that overflows" 2 "$m/model.safetensors: model.layers.*: merged, * numbers are infinite or NaN in F32" \
    merge --model "$m" --adapter "$tmp/huge" --out "$tmp/x"
refused "argument" 2 "'x': this command takes no arguments; *" merge x
[ -e "$tmp/x" ] && fail "a refused merge leaves nothing"
finish
