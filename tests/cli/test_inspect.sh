. "$(dirname "$0")/lib.sh"
small_model
m=$tmp/model
golden=$root/tests/fixtures/golden

done_by "help" inspect --help
said "help" 'usage: lorac inspect PATH*'
done_by "model" inspect "$m"
said "model" 'model: llama, 2 layers, width 64, feed-forward 172, 4 heads of 16 on 4, vocabulary 512, 256 positions; 164672 parameters
tensor * shape *
lm_head.weight *F32   ?512, 64? *
*model.layers.1.mlp.up_proj.weight *
21 tensors, 164672 elements (F32 164672), 658688 bytes, 0 NaN, 0 infinite'
done_by "summary" inspect "$golden/llama3-tiny" --summary
said "summary" 'model: llama, 3 layers, *6 heads of 16 on 2, vocabulary 640 (tied), *
*tensors, *elements (F32 *'
done_by "adapter" inspect "$tmp/adapter" --summary
said "adapter" 'adapter: rank 8, alpha 16, dropout 0, on *q_proj*
28 tensors, *'
done_by "file" inspect "$golden/llama2-tiny/io.safetensors" --json
said "file" '{"kind": "file", *"tensors": ?{"name": "*", "dtype": "*", "shape": ?*'
done_by "same" inspect "$m" --diff "$golden/llama2-tiny"
said "same" '0 of 21 tensors differ'
run inspect "$m" --diff "$golden/llama2-tiny/sft_final.safetensors"
[ $rc = 1 ] || fail "a difference is exit code 1, got $rc"
said "diff" '*model.norm.weight: values differ by up to *
* of 21 tensors differ; the first is *'
done_by "within the tolerance" inspect "$m" --diff "$golden/llama2-tiny/sft_final.safetensors" --tolerance 10
said "within the tolerance" '0 of 21 tensors differ'

# --- a checkpoint
cat >"$tmp/c.yaml" <<YAML
model: {path: $golden/llama2-tiny}
output: $tmp/run
data: {train: $golden/llama2-tiny/batches.jsonl, format: tokens, max_length: 48}
lora: {rank: 2, targets: [q_proj]}
batch: {global: 4}
train: {max_steps: 3}
optim: {lr: 1e-3}
save: {every: 2, keep: 2}
YAML
done_by "train" train "$tmp/c.yaml"
done_by "checkpoint" inspect "$tmp/run/checkpoint-2" --summary
said "checkpoint" 'checkpoint: 2 steps done, the next is step 2 of epoch 0 (from 0), 8 documents seen; the checksums of all * files hold
adapter: rank 2, *
4 tensors, *'
done_by "state" inspect "$tmp/run/checkpoint-2/state.safetensors"
said "state" '*master.*q_proj*'
printf x >>"$tmp/run/checkpoint-2/adapter_config.json"
refused "damaged" 2 '*checkpoint-2*' inspect "$tmp/run/checkpoint-2"
refused "damaged, as JSON" 2 '*checkpoint-2*' inspect "$tmp/run/checkpoint-2" --summary --json

# --- refusals
refused "nothing" 2 'give a folder or a safetensors file' inspect
refused "not there" 2 '/none: *' inspect /none
refused "no weights" 2 "$tmp: *" inspect "$tmp"
refused "no safetensors" 2 '*config.json: *' inspect "$m/config.json"
refused "tolerance alone" 2 '--tolerance: has no meaning without --diff' inspect "$m" --tolerance 1
refused "tolerance" 2 '--tolerance: must be 0 or more, got -1' inspect "$m" --diff "$m" --tolerance -1
if [ -d "$shared/data/bad-input/safetensors" ]; then
    for f in "$shared"/data/bad-input/safetensors/*; do
        case $f in *.tsv | *LICENSE* | *README*) continue ;; esac
        run inspect "$f"
        checks=$((checks + 1))
        [ $rc = 0 ] || { [ $rc = 2 ] && [ "$(wc -l <"$tmp/err")" = 1 ]; } || { fail "$f: exit code $rc" && show; }
    done
else
    echo "skipped: malformed safetensors files ($shared/data/bad-input is not here)" >&2
fi
finish
