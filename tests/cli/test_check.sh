# lorac check: every error without training; the reference of keys.
. "$(dirname "$0")/lib.sh"

model=$root/tests/fixtures/models/qwen2-d64
cat >"$tmp/run.yaml" <<END
model: {path: "$model"}
data: {train: "$model/packed.jsonl", format: tokens, max_length: 64, cache: off}
output: $tmp/run
END

done_by 'a good config' check "$tmp/run.yaml"
said 'counts, model, verdict' "train
  rows                       120*model: * parameters, * trained *$tmp/run.yaml: ready to train"
checks=$((checks + 1))
[ -e "$tmp/run" ] && fail 'check made the output folder'

{ cat "$tmp/run.yaml" && echo 'data.max_length: 32'; } >"$tmp/twice.yaml"
refused 'a key nested and with dots' 2 "$tmp/twice.yaml:4: data.max_length: the key stands here a second time, first in line 2" check "$tmp/twice.yaml"
printf 'optim.lr: 0.5\n' | cat "$tmp/run.yaml" - >"$tmp/dotted.yaml"
refused 'the command line stands over keys with dots' 2 "command line: optim.lr: must be *, is '-1'" check "$tmp/dotted.yaml" optim.lr=-1
refused 'a bound that nobody reaches is told to who does' 2 "command line: train.epochs: must be an integer from 1 to 1000000000, is '1000000000000'" \
    check "$tmp/run.yaml" train.epochs=1000000000000
# the model is looked at as well, and so there is something on standard output
run check "$tmp/run.yaml" data.packing=concat data.max_length=100000
ends 'a training set without a row' 2
noted 'a training set without a row' "*$model/packed.jsonl: the training set has * tokens and does not fill one row of 100000; give more rows, lower data.max_length, or set data.packing: best_fit*"
head -n 1 "$model/packed.jsonl" >"$tmp/short.jsonl"
run check "$tmp/run.yaml" data.packing=concat data.eval="$tmp/short.jsonl"
ends 'a validation set without a row' 2
noted 'a validation set without a row' "$tmp/short.jsonl: the validation set has * tokens and does not fill one row of 64; *"
run check "$tmp/run.yaml" data.train="[{path: $model/packed.jsonl, weight: 0.000001}]"
ends 'weights that take no row' 2
noted 'weights that take no row' "$model/packed.jsonl: weight: the weights take no row of the training set into the first epoch; raise them"

done_by 'the reference' check --explain
cp "$tmp/out" "$tmp/explained"
same 'docs/config.md is up to date' "$tmp/explained" "$root/docs/config.md"

printf '{"input_ids": [1, 2], "labels": [1]}\n{"input_ids": [1, "x"], "labels": [1, 2]}\n' >"$tmp/bad.jsonl"
cp "$tmp/bad.jsonl" "$tmp/bad.copy"
refused 'data and model are both looked at' 2 "$tmp/bad.jsonl:1: *
$tmp/bad.jsonl:2: *
command line: lora.targets: *q_prj*" \
    check "$tmp/run.yaml" data.train="$tmp/bad.jsonl" lora.targets='[q_prj]'
awk 'BEGIN { for (i = 0; i < 130; i++) print "{\"input_ids\": [1, \"x\"], \"labels\": [1, 2]}" }' >"$tmp/many.jsonl"
run check "$tmp/run.yaml" data.train="$tmp/many.jsonl" lora.targets='[q_prj]'
ends 'the model is told behind many rows' 2
noted 'the model is told behind many rows' "*$tmp/many.jsonl:100: *
command line: lora.targets: *q_prj*
... and 30 more rows"
awk 'BEGIN { for (i = 0; i < 120; i++) print "kee" i ": 1" }' >"$tmp/keys.yaml"
run check "$tmp/keys.yaml"
checks=$((checks + 1))
[ "$(grep -c ': kee[0-9]*: unknown key' "$tmp/err")" = 120 ] || fail 'not every unknown key is told'
deep=$tmp/$(printf '%0250d/%0250d/%0100d' 0 0 0)
mkdir -p "$deep" && { cat "$tmp/run.yaml" && echo 'lora: {targets: [q_prj]}'; } >"$deep/run.yaml"
refused 'the line of a config with a long name' 2 "$deep/run.yaml:4: lora.targets: LoRA target 'q_prj' matches no module; *" \
    check --quiet "$deep/run.yaml"
refused 'a pattern that matches nothing' 2 "command line: lora.rank_pattern: 'foo' matches no *" \
    check --quiet "$tmp/run.yaml" 'lora.rank_pattern={foo: 3}'
refused 'a pattern that cannot be read' 2 "command line: lora.rank_pattern: *'(?:.*\\.)?(?:q_proj()'*" \
    check --quiet "$tmp/run.yaml" 'lora.rank_pattern={"q_proj(": 3}'
refused 'a rank beyond the most' 2 "command line: lora.rank: must be an integer from 1 to 32768, is '40000'" \
    check --quiet "$tmp/run.yaml" lora.rank=40000
refused 'a module to train whole that is not there' 2 "command line: lora.save_modules: 'foo' matches no module *" \
    check --quiet "$tmp/run.yaml" 'lora.save_modules=[foo]'
refused 'a layer that is not there' 2 "command line: lora.layers: LoRA layer 5: the model has none of this number" \
    check --quiet "$tmp/run.yaml" 'lora.layers=[5]'
refused 'too little memory' 2 "command line: runtime.memory: the run needs * GiB and cpu has *" \
    check --quiet "$tmp/run.yaml" runtime.memory=0.001
refused 'config errors' 2 "command line: batch.micro: must divide batch.global, which is 8; is 3" \
    check "$tmp/run.yaml" batch.micro=3

refused 'a file in the way of the output' 2 "command line: output: $tmp/bad.jsonl is a file; name a folder, new or of an earlier run" \
    check "$tmp/run.yaml" output="$tmp/bad.jsonl"
refused 'a file above the output' 2 "command line: output: $tmp/bad.jsonl is a file; name a folder, new or of an earlier run" \
    check "$tmp/run.yaml" output="$tmp/bad.jsonl/runs/1"
refused 'the same of a run' 2 "command line: output: $tmp/bad.jsonl is a file; name a folder, new or of an earlier run" \
    train "$tmp/run.yaml" output="$tmp/bad.jsonl/runs/1"
same 'the file in the way is as it was' "$tmp/bad.jsonl" "$tmp/bad.copy"
echo '- a' >"$tmp/list.yaml"
refused 'a list is no config' 2 "$tmp/list.yaml:1: a config is a map of keys, this is a list" check "$tmp/list.yaml"
mkdir "$tmp/faulty" && sed 's/"hidden_act": "silu"/"hidden_act": "gelu"/; s/"vocab_size": [0-9]*/"vocab_size": 0/' "$model/config.json" >"$tmp/faulty/config.json"
refused "all faults of a model's config.json" 2 "command line: model.path: $tmp/faulty/config.json: hidden_act: 'gelu' is not supported, only silu
command line: model.path: $tmp/faulty/config.json: vocab_size: must be 1 to *, found 0" \
    check --quiet "$tmp/run.yaml" model.path="$tmp/faulty"
mkfifo "$tmp/pipe"
refused 'a config that is a pipe' 2 "$tmp/pipe: is a pipe, a file is needed" check "$tmp/pipe"
refused 'rows that are a pipe' 2 "$tmp/pipe: is a pipe, a file is needed" check --quiet "$tmp/run.yaml" data.train="$tmp/pipe"

mkdir -p "$tmp/lost/checkpoint-3"
run check --quiet "$tmp/run.yaml" output="$tmp/lost"
ends 'no checkpoint that is whole' 2
noted 'no checkpoint that is whole' "warning: $tmp/lost/checkpoint-3 is not whole and passed over: $tmp/lost/checkpoint-3/manifest.json: cannot open: *
$tmp/run.yaml: resume: $tmp/lost holds checkpoint-3 and none that is whole, *"
run train --quiet "$tmp/run.yaml" output="$tmp/lost" resume=never
ends 'a run that must not go on' 2
noted 'a run that must not go on' "command line: resume: is never, and $tmp/lost holds checkpoint-3; choose another output folder, remove it, or set auto"
refused 'a checkpoint that is none' 2 "command line: resume: $tmp/elsewhere is no checkpoint: it has no manifest.json; *" \
    check --quiet "$tmp/run.yaml" output="$tmp/lost" resume="$tmp/elsewhere"
mkdir "$tmp/elsewhere" && echo '{}' >"$tmp/elsewhere/manifest.json"
refused 'a manifest of nothing' 2 "command line: resume: $tmp/elsewhere/manifest.json: is no manifest of a checkpoint" \
    check --quiet "$tmp/run.yaml" output="$tmp/lost" resume="$tmp/elsewhere"

# check and train say the same of a checkpoint that the run would go on from
refused_by_both() # NAME LINE ARGS...
{
    what=$1 line=$2
    shift 2
    refused "$what: check" 2 "$line" check --quiet "$tmp/run.yaml" output="$tmp/two" "$@"
    refused "$what: train" 2 "$line" train --quiet "$tmp/run.yaml" output="$tmp/two" "$@"
}
done_by 'two steps' train --quiet "$tmp/run.yaml" output="$tmp/two" train.max_steps=2 save.every=1 optim.schedule=constant
done_by 'a checkpoint to go on from' check "$tmp/run.yaml" output="$tmp/two" train.max_steps=3 optim.schedule=constant
said 'a checkpoint to go on from' "*a run would go on from $tmp/two/checkpoint-2, step 2 (resume: auto)
$tmp/run.yaml: ready to train"
cp -r "$model" "$tmp/other" && chmod -R u+w "$tmp/other"
size=$(wc -c <"$tmp/other/model.safetensors")
printf '\000\000\000\100' | dd of="$tmp/other/model.safetensors" bs=1 seek=$((size - 4)) conv=notrunc 2>"$tmp/err"
refused_by_both 'another base' "command line: model.path: the base is not the one that $tmp/two/checkpoint-2 was trained on; start anew in another output folder" \
    model.path="$tmp/other" optim.schedule=constant
refused_by_both 'another weight' "*: data.train.0.weight: is 3, and $tmp/two/checkpoint-2 was made with 1*" \
    data.train="[{path: $model/packed.jsonl, weight: 3}]" optim.schedule=constant
refused_by_both 'another rate' "command line: optim.lr: is 0.5, and $tmp/two/checkpoint-2 was made with *" optim.lr=0.5 optim.schedule=constant
refused_by_both 'one before the last' "command line: resume: $tmp/two/checkpoint-1 is at step 1, and $tmp/two goes on to checkpoint-2; choose another *" \
    resume="$tmp/two/checkpoint-1" optim.schedule=constant
refused_by_both 'never' "command line: resume: is never, and $tmp/two holds checkpoint-2; choose another output folder, remove it, or set auto" \
    resume=never optim.schedule=constant
mkdir -p "$tmp/odd/checkpoint-99999999999999999999" "$tmp/odd/checkpoint-007"
done_by 'folders that no run names so' check --quiet "$tmp/run.yaml" output="$tmp/odd"

cp -r "$model" "$tmp/base"
refused 'an output where the model lies' 2 "command line: output: $tmp/base/../base is model.path, whose files it would replace; name another" \
    check --quiet "$tmp/run.yaml" model.path="$tmp/base" output="$tmp/base/../base"
run check --quiet "$tmp/run.yaml" runtime.device=cuda
[ "$rc" = 0 ] || { ends 'cuda without a GPU' 2 && noted 'cuda without a GPU' '*runtime.device: *cuda*'; }

refused 'a file for a folder' 2 "command line: model.path: $model/config.json is a file; name the folder that it lies in" \
    check --quiet "$tmp/run.yaml" model.path="$model/config.json"
refused "the shell's name of home" 2 "command line: output: '~' is the shell's, *" check --quiet "$tmp/run.yaml" 'output=~/run'
done_by 'groups of many ranks, checked by one' check --quiet "$tmp/run.yaml" parallel.shard_group=8
# under concat a row is what attends to itself, however long its documents are
cp -r "$root/tests/fixtures/models/mistral-d64" "$tmp/window"
sed -i 's/"sliding_window": null/"sliding_window": 32/' "$tmp/window/config.json"
refused 'rows beyond the window' 2 "*data.max_length: packing concat makes rows of 64 tokens and the model has a sliding window of 32, *" \
    check --quiet "$tmp/run.yaml" model.path="$tmp/window" data.packing=concat
done_by 'rows within the window' check --quiet "$tmp/run.yaml" model.path="$tmp/window" data.packing=concat data.max_length=32
checks=$((checks + 1))
"$lorac" check --explain >/dev/full 2>"$tmp/err"
[ $? = 1 ] || fail 'keys that nobody can read'

checks=$((checks + 1))
"$lorac" check "$tmp/run.yaml" output="$tmp/new" >/dev/full 2>"$tmp/err"
[ $? = 1 ] || fail 'ready, but nobody is told'
# somebody's model is not written over, nor is work begun whose end has no place
mkdir "$tmp/theirs" && echo '{}' >"$tmp/theirs/config.json"
refused 'a model that no run wrote' 2 "command line: output: $tmp/theirs holds config.json, which would be replaced, and no config.yaml of a run; *" \
    check --quiet "$tmp/run.yaml" output="$tmp/theirs"
refused 'a name that is too long' 2 "command line: output: *: File name too long" \
    check --quiet "$tmp/run.yaml" output="$tmp/$(printf '%0300d' 1)/x"
refused 'a name that is too long below what is not there' 2 "command line: output: *: File name too long" \
    check --quiet "$tmp/run.yaml" output="$tmp/none/$(printf '%0300d' 1)"
finish
