# lorac quantize, and what reads its folders and those of others.
. "$(dirname "$0")/lib.sh"

plain=$root/tests/fixtures/quant/plain
done_by 'nf4' quantize --model "$plain" --out "$tmp/nf4"
said 'bits and errors' "*q_proj       1 matrices*error 9.21 %*7 matrices as nf4 with double quantisation, 6.12 bits a weight; the rest as it was"
done_by 'int8' quantize --model "$plain" --out "$tmp/int8" --type int8 --quiet
done_by 'blocks of 128' quantize --model "$plain" --out "$tmp/nf4-128" --type nf4 --block 128
said 'fewer scales' "*7 matrices as nf4 with double quantisation, 6.06 bits a weight; the rest as it was"
refused 'a block that is none' 2 "--block: must be a power of two from 32 to 4096, is 48" quantize --model "$plain" --out "$tmp/x" --block 48
refused 'a block of nothing' 2 "--block: must be a power of two from 32 to 4096, is 0" quantize --model "$plain" --out "$tmp/x" --block 0
refused 'a block of rows' 2 "--block: only with nf4 and fp4" quantize --model "$plain" --out "$tmp/x" --type int8 --block 64
refused 'a type that is none' 2 "--type: must be one of nf4, fp4, int8, is 'nf5'" quantize --model "$plain" --out "$tmp/x" --type nf5
refused 'a quantised folder again' 2 "$tmp/nf4: is quantised already (bitsandbytes)" quantize --model "$tmp/nf4" --out "$tmp/x"
refused 'a folder that is there' 2 "$tmp/nf4: is not empty; name a new folder" quantize --model "$plain" --out "$tmp/nf4"

# codes have no NaN: the last value of v_proj, before the norm's 64, in float16
mkdir "$tmp/nan"
cp "$plain"/* "$tmp/nan/" && chmod u+w "$tmp/nan/model.safetensors"
size=$(wc -c <"$tmp/nan/model.safetensors")
printf '\377\377' | dd of="$tmp/nan/model.safetensors" bs=1 seek=$((size - 130)) conv=notrunc 2>"$tmp/err"
refused 'a weight that is no number' 2 "$tmp/nan/model.safetensors: model.layers.0.self_attn.v_proj.weight has values that are not finite, which quantising would hide*" quantize --model "$tmp/nan" --out "$tmp/x" --quiet
[ -e "$tmp/x" ] && fail 'a refused model leaves nothing'

printf '{"input_ids": [1, 5, 9, 13, 7, 2]}\n{"input_ids": [1, 8, 3, 2]}\n' >"$tmp/rows.jsonl"
cat >"$tmp/run.yaml" <<EOF
model: {path: $root/tests/fixtures/quant/gptq-4bit-g64-order}
method: qlora
lora: {rank: 2}
data: {train: $tmp/rows.jsonl, format: tokens, max_length: 16, train_on: all}
batch: {global: 2}
train: {max_steps: 2}
output: $tmp/gptq
EOF
done_by 'adapters on GPTQ' train "$tmp/run.yaml"
done_by 'on our own nf4' train "$tmp/run.yaml" model.path="$tmp/nf4" output="$tmp/out2"
done_by 'on blocks of 128' train "$tmp/run.yaml" model.path="$tmp/nf4-128" output="$tmp/out4"
done_by 'on AWQ' train "$tmp/run.yaml" model.path="$root/tests/fixtures/quant/awq-g32" output="$tmp/out3"
done_by 'it plans' plan "$tmp/run.yaml"
done_by 'its resolved config is read back' plan "$tmp/gptq/config.yaml"
# modules that were left as they are (llm_int8_skip_modules, modules_to_not_convert, dynamic)
without=$root/tests/fixtures/quant
done_by 'on AWQ without down_proj' train "$tmp/run.yaml" model.path="$without/awq-g32-skip" output="$tmp/out5"
noted 'which matrix is plain' "*base: *: 6 matrices*not quantised in the files: down_proj of layer 0
      f32: these, embedding, head, norms and biases*"
said 'its memory was planned' '*memory: peak * GiB, as planned*'
done_by 'on GPTQ without v_proj' train "$tmp/run.yaml" model.path="$without/gptq-4bit-g64-order-skip-v" output="$tmp/out6"
noted 'which are decoded' "*base: *: 4 matrices*not quantised in the files: v_proj of layer 0
      decoded, as one matrix with some of those: q_proj of layer 0; k_proj of layer 0*"
said 'with the decoded ones, too' '*memory: peak * GiB, as planned*'
done_by 'merged with what stayed plain' merge --model "$without/gptq-4bit-g64-order-skip-v" --adapter "$tmp/out6" --out "$tmp/plain-part" --json
said 'all of it' '{"tensors": 11, "merged": 7, *"divergence": *'
tokens="--data $tmp/rows.jsonl --format tokens --max-length 16 --json"
# shellcheck disable=SC2086 # they are flags
for base in gptq-4bit-g32-skip bnb-nf4-skip bnb-int8-skip bnb-int8-skip-v; do
    done_by "evaluated: $base" eval --model "$without/$base" $tokens
    said 'a loss' '{*"loss": *'
done
# shellcheck disable=SC2086
done_by 'outliers beside a plain module' eval --model "$without/bnb-int8-skip" --int8-outliers 6 $tokens
# shellcheck disable=SC2086
refused 'outliers of a module that is decoded' 2 \
    "--int8-outliers: model.layers.0.self_attn.q_proj is int8 in the file, but decoded, for a module that is one matrix with it is not quantised; leave it out" \
    eval --model "$without/bnb-int8-skip-v" --int8-outliers 6 $tokens
refused 'lora on a quantised checkpoint' 2 "$tmp/run.yaml:1: model.path: the checkpoint is quantised (gptq); set method: qlora" \
    plan "$tmp/run.yaml" method=lora
refused 'quantising again' 2 'command line: model.quantize: the checkpoint is quantised already (gptq) and is kept as it is; leave it out' \
    plan "$tmp/run.yaml" model.quantize=nf4 output="$tmp/out4"

done_by 'merged into what the codes decode to' merge --model "$tmp/nf4" --adapter "$tmp/out2" --out "$tmp/m1"
said 'what is kept, again, and how far off' '*7 of 11 tensors merged; *of the change survived the rounding*quantised again, to nf4 in blocks of 64 with double quantisation, *% of it would, with errors of * times it*divergence from the unmerged model: * nats a token, over 64 drawn tokens*'
[ -e "$tmp/m1.base" ] && fail 'left the decoded base'
mkdir "$tmp/m4"
done_by 'merged into a folder that is there, named with a slash' merge --model "$tmp/nf4" --adapter "$tmp/out2" --out "$tmp/m4/" --quiet
same 'merged into a folder that is there, named with a slash' "$tmp/m1/model.safetensors" "$tmp/m4/model.safetensors"
done_by 'merged into the original' merge --model "$tmp/nf4" --adapter "$tmp/out2" --original "$plain" --out "$tmp/m2" --json
said 'the same as JSON' '{"tensors": 11, "merged": 7, *"requantised": {"type": "nf4", "block": 64, "double_quant": true, "survived": *, "errors": *}, "divergence": *'

# what quantising again would do to it is measured with the base's own type, and told where it would eat what was learned
keep="keep it in 16 bits, or the adapter beside the quantised model"
done_by 'fp4 in single blocks of 32' quantize --model "$plain" --out "$tmp/fp4" --type fp4 --block 32 --single --quiet
for t in fp4 int8; do done_by "on our own $t" train "$tmp/run.yaml" model.path="$tmp/$t" output="$tmp/on-$t"; done
done_by 'a change of less than half a step' merge --model "$tmp/fp4" --adapter "$tmp/on-fp4" --out "$tmp/m5" --quiet --json
noted 'a change of less than half a step' "warning: quantised again, to fp4 in blocks of 32, the merged model would keep [0-5] % of what was learned; $keep"
said 'the type, whatever it is' '*"requantised": {"type": "fp4", "block": 32, "double_quant": false, "survived": 0.0*'
done_by 'codes that flip by far more' merge --model "$tmp/fp4" --adapter "$tmp/on-fp4" --original "$plain" --out "$tmp/m6" --quiet
noted 'codes that flip by far more' "warning: quantised again, to fp4 in blocks of 32, the merged model would have errors of 1? times what was learned; $keep"
done_by 'nothing to warn of' merge --model "$tmp/int8" --adapter "$tmp/on-int8" --original "$plain" --out "$tmp/m7" --quiet --json
noted 'nothing to warn of' ''
said 'nothing to warn of' '*"requantised": {"type": "int8", "survived": 0.9*'
# as GPTQ's uploads are: a file of its own that says how; what generation and config say comes along, but for the codes
cp -r "$root/tests/fixtures/quant/gptq-4bit-g64-order" "$tmp/upload"
echo '{"bits": 4, "group_size": 64, "desc_act": true}' >"$tmp/upload/quantize_config.json"
echo '{"eos_token_id": [2, 3], "temperature": 0.6}' >"$tmp/upload/generation_config.json"
sed 's/{/{ "mine": "stays",/;' "$tmp/upload/config.json" | awk 'NR == 1 { print; next } { gsub("\\{ \"mine\": \"stays\",", "{"); print }' >"$tmp/config.json"
cp "$tmp/config.json" "$tmp/upload/config.json"
done_by 'merged from GPTQ' merge --model "$tmp/upload" --adapter "$tmp/gptq" --out "$tmp/m8"
same 'generation_config.json of what was merged' "$tmp/upload/generation_config.json" "$tmp/m8/generation_config.json"
checks=$((checks + 2))
[ -e "$tmp/m8/quantize_config.json" ] && fail 'a merged model says that it is quantised'
grep -q '"mine": "stays"' "$tmp/m8/config.json" && ! grep -q quantization_config "$tmp/m8/config.json" || fail "config.json: $(cat "$tmp/m8/config.json")"
said 'GPTQ is measured as what we write' '*quantised again, to nf4 in blocks of 64 with double quantisation, *'
done_by 'what was merged is a model' inspect "$tmp/m8" --summary
said 'what was merged is a model' 'model: llama, *'
refused 'a flag for a base that is quantised' 2 '--quantize: the model is quantised already (bitsandbytes)' \
    merge --model "$tmp/nf4" --adapter "$tmp/out2" --out "$tmp/m9" --quantize nf4
refused 'an original that is not there' 2 '--original: /none is not a folder' \
    merge --model "$tmp/nf4" --adapter "$tmp/out2" --original /none --out "$tmp/m3"
refused 'an original that is quantised, too' 2 "--original: $tmp/nf4 is quantised, too (bitsandbytes); name the model that it was made of, *" \
    merge --model "$tmp/nf4" --adapter "$tmp/out2" --original "$tmp/nf4" --out "$tmp/m3"
refused 'an original of a plain model' 2 "--original: $plain is not quantised; it is the original" \
    merge --model "$plain" --adapter "$tmp/out2" --original "$plain" --out "$tmp/m3"

cp -r "$plain" "$tmp/own"
refused 'an output inside the model' 2 "$tmp/own/sub: lies inside $tmp/own, which is read; name a folder elsewhere" \
    quantize --model "$tmp/own" --out "$tmp/own/sub"
[ -e "$tmp/own/sub" ] && fail 'made a folder inside the model'
refused 'an output that is a file' 2 "$tmp/rows.jsonl: is a file; name a new folder" quantize --model "$plain" --out "$tmp/rows.jsonl"
refused 'a merge inside the quantised model' 2 "$tmp/nf4/sub: lies inside $tmp/nf4, which is read; name a folder elsewhere" \
    merge --model "$tmp/nf4" --adapter "$tmp/out2" --out "$tmp/nf4/sub"
refused 'a merge into the original inside the quantised model' 2 "$tmp/nf4/sub: lies inside $tmp/nf4, which is read; name a folder elsewhere" \
    merge --model "$tmp/nf4" --adapter "$tmp/out2" --original "$plain" --out "$tmp/nf4/sub"

finish
