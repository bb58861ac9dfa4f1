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

done_by 'the reference' check --explain
cp "$tmp/out" "$tmp/explained"
same 'docs/config.md is up to date' "$tmp/explained" "$root/docs/config.md"

printf '{"input_ids": [1, 2], "labels": [1]}\n{"input_ids": [1, "x"], "labels": [1, 2]}\n' >"$tmp/bad.jsonl"
cp "$tmp/bad.jsonl" "$tmp/bad.copy"
refused 'data and model are both looked at' 2 "$tmp/bad.jsonl:1: *
$tmp/bad.jsonl:2: *
command line: lora.targets: *q_prj*" \
    check "$tmp/run.yaml" data.train="$tmp/bad.jsonl" lora.targets='[q_prj]'
refused 'a pattern that matches nothing' 2 "command line: lora.rank_pattern: 'foo' matches no *" \
    check --quiet "$tmp/run.yaml" 'lora.rank_pattern={foo: 3}'
refused 'a pattern that cannot be read' 2 "command line: lora.rank_pattern: *'(?:.*\\.)?(?:q_proj()'*" \
    check --quiet "$tmp/run.yaml" 'lora.rank_pattern={"q_proj(": 3}'
refused 'a rank beyond the most' 2 "command line: lora.rank: LoRA rank of model.layers.0.*.q_proj: must be an integer from 1 to 32768, found 40000" \
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
done_by 'the same where another one is named' check --quiet "$tmp/run.yaml" output="$tmp/lost" resume="$tmp/elsewhere"
mkdir -p "$tmp/odd/checkpoint-99999999999999999999" "$tmp/odd/checkpoint-007"
done_by 'folders that no run names so' check --quiet "$tmp/run.yaml" output="$tmp/odd"

cp -r "$model" "$tmp/base"
refused 'an output where the model lies' 2 "command line: output: $tmp/base/../base is model.path, whose files it would replace; name another" \
    check --quiet "$tmp/run.yaml" model.path="$tmp/base" output="$tmp/base/../base"
run check --quiet "$tmp/run.yaml" runtime.device=cuda
[ "$rc" = 0 ] || { ends 'cuda without a GPU' 2 && noted 'cuda without a GPU' '*runtime.device: *cuda*'; }

finish
