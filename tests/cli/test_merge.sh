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
cp -r "$tmp/adapter" "$tmp/nan" && poison "$tmp/nan/adapter_model.safetensors"
refused "an adapter is NaN" 2 "$tmp/nan/adapter_model.safetensors: weight base_model.model.*lora_B.weight holds 1 values that are not finite; *" \
    merge --model "$m" --adapter "$tmp/nan" --out "$tmp/x"
mkdir "$tmp/faulty" && sed 's/"hidden_act": "silu"/"hidden_act": "gelu"/; s/"vocab_size": [0-9]*/"vocab_size": 0/' "$m/config.json" >"$tmp/faulty/config.json"
refused "all faults of a config.json" 2 "$tmp/faulty/config.json: hidden_act: 'gelu' is not supported, only silu
$tmp/faulty/config.json: vocab_size: must be 1 to *, found 0" \
    merge --model "$tmp/faulty" --adapter "$tmp/adapter" --out "$tmp/x"
refused "argument" 2 "'x': this command takes no arguments; *" merge x
[ -e "$tmp/x" ] && fail "a refused merge leaves nothing"

# --- an adapter of a base that its run quantised: into the original, compared with the base as the run had it
ran=$tmp/ran/checkpoint-3
mkdir "$tmp/ran" && cp -r "$tmp/adapter" "$ran"
printf 'method: qlora\nmodel:\n  path: x\n  quantize: nf4\n  double_quant: false\n' >"$tmp/ran/config.yaml"
done_by "what the run had" merge --model "$m" --adapter "$ran" --out "$tmp/q1"
said "what the run had" '*quantised again, to nf4 in blocks of 64, *% of it would, with errors of * times it
divergence from the unmerged model: 0.0[0-9]* nats a token, over 64 drawn tokens'
noted "what the run had" "the base is kept as nf4 in blocks of 64, as in the run of $ran/../config.yaml; --quantize none: as its files have it*"
same "into the original" "$tmp/merged/model.safetensors" "$tmp/q1/model.safetensors"
done_by "what flags say" merge --model "$m" --adapter "$tmp/adapter" --out "$tmp/q2" --quantize fp4 --quant-block 32 --json --quiet
said "what flags say" '*"requantised": {"type": "fp4", "block": 32, "double_quant": true, "survived": 0.9*}, "divergence": 0.0*'
done_by "the files' own" merge --model "$m" --adapter "$ran" --out "$tmp/q3" --quantize none --json
noted "the files' own" ''
said "the files' own" '{"tensors": 21, "merged": 14, "replaced": 0, "untied": false, "survived": *, "changes": *'
echo 'method: qlora
base_model: {quantize: nf4}' >"$ran/config.yaml"
done_by "another program's config" merge --model "$m" --adapter "$ran" --out "$tmp/q4" --json
noted "another program's config" ''
printf 'method: qlora\nmodel:\n  quantize: nf5\n' >"$ran/config.yaml"
refused "a record that is none" 2 "$ran/config.yaml:3: model.quantize: must be nf4, fp4, int8 or fp8, is 'nf5'; or give --quantize" \
    merge --model "$m" --adapter "$ran" --out "$tmp/x"
printf 'method: qlora\nmodel: {quantize: nf4}\nlora: {init: pissa}\n' >"$ran/config.yaml"
done_by "PiSSA's base" merge --model "$m" --adapter "$ran" --out "$tmp/q5" --json
noted "PiSSA's base" "$ran/config.yaml: the run took PiSSA's part out of its base before it quantised that; it is kept as the model's files have it"
refused "a type that is none" 2 "--quantize: must be one of none, nf4, fp4, int8, fp8, is 'nf5'" \
    merge --model "$m" --adapter "$tmp/adapter" --out "$tmp/x" --quantize nf5
[ -e "$tmp/x" ] && fail "a refused merge leaves nothing"
# what is copied is looked at, too
cp -r "$m" "$tmp/odd" && LC_ALL=C sed -i 's/"model\.norm\.weight"/"model.nrom.weight"/' "$tmp/odd/model.safetensors"
refused "a base without its last norm" 2 "$tmp/odd: tensor model.norm.weight is missing" \
    merge --model "$tmp/odd" --adapter "$tmp/adapter" --out "$tmp/x"
[ -e "$tmp/x" ] && fail "a refused merge leaves nothing"
finish
