# lorac quantize, and what reads its folders and those of others.
. "$(dirname "$0")/lib.sh"

plain=$root/tests/fixtures/quant/plain
done_by 'nf4' quantize --model "$plain" --out "$tmp/nf4"
said 'bits and errors' "*q_proj       1 matrices*error 9.21 %*7 matrices as nf4 with double quantisation, 6.12 bits a weight; the rest as it was"
done_by 'int8' quantize --model "$plain" --out "$tmp/int8" --type int8 --quiet
done_by 'blocks of 128' quantize --model "$plain" --out "$tmp/nf4-128" --type nf4 --block 128
said 'fewer scales' "*7 matrices as nf4 with double quantisation, 6.06 bits a weight; the rest as it was"
refused 'a block that is none' 2 "--block: must be a power of two from 32 to 4096, is 48" quantize --model "$plain" --out "$tmp/x" --block 48
refused 'a block of rows' 2 "--block: only with nf4 and fp4" quantize --model "$plain" --out "$tmp/x" --type int8 --block 64
refused 'a type that is none' 2 "--type: must be one of nf4, fp4, int8, is 'nf5'" quantize --model "$plain" --out "$tmp/x" --type nf5
refused 'a quantised folder again' 2 "$tmp/nf4: is quantised already (bitsandbytes)" quantize --model "$tmp/nf4" --out "$tmp/x"
refused 'a folder that is there' 2 "--out: $tmp/nf4 is not empty; name a new folder" quantize --model "$plain" --out "$tmp/nf4"

# codes have no NaN: the last value of v_proj, before the norm's 64, in float16
mkdir "$tmp/nan"
cp "$plain"/* "$tmp/nan/" && chmod u+w "$tmp/nan/model.safetensors"
size=$(wc -c <"$tmp/nan/model.safetensors")
printf '\377\377' | dd of="$tmp/nan/model.safetensors" bs=1 seek=$((size - 130)) conv=notrunc 2>"$tmp/err"
refused 'a weight that is no number' 2 "*v_proj.weight has values that are not finite, which quantising would hide*" quantize --model "$tmp/nan" --out "$tmp/x" --quiet

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
done_by 'merged with what stayed plain' merge --model "$without/gptq-4bit-g64-order-skip-v" --adapter "$tmp/out6" --out "$tmp/m4" --json
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
said 'what is kept, again, and how far off' '*7 of 11 tensors merged; *of the change survived the rounding*quantised to nf4 again, *% of it would*divergence from the unmerged model: * nats a token, over 64 drawn tokens*'
[ -e "$tmp/m1.base" ] && fail 'left the decoded base'
done_by 'merged into the original' merge --model "$tmp/nf4" --adapter "$tmp/out2" --original "$plain" --out "$tmp/m2" --json
said 'the same as JSON' '{"tensors": 11, "merged": 7, *"survived_nf4": *"divergence": *'
refused 'an original of a plain model' 2 "--original: $plain is not quantised; it is the original" \
    merge --model "$plain" --adapter "$tmp/out2" --original "$plain" --out "$tmp/m3"

cp -r "$plain" "$tmp/own"
refused 'an output inside the model' 2 "--out: $tmp/own/sub lies inside the model $tmp/own; name a folder elsewhere" \
    quantize --model "$tmp/own" --out "$tmp/own/sub"
[ -e "$tmp/own/sub" ] && fail 'made a folder inside the model'

finish
