# lorac train: a whole run, its last line, what it leaves; overrides; refusals by line and exit code.
. "$(dirname "$0")/lib.sh"

model=$root/tests/fixtures/models/llama3-d64
cat >"$tmp/run.yaml" <<END
model: {path: "$model"}
lora: {rank: 4, dropout: 0.1}
data: {train: "$model/packed.jsonl", eval: "$model/batches.jsonl", format: tokens, max_length: 64}
batch: {global: 4}
optim: {lr: 2e-3}
train: {max_steps: 12}
eval: {every: 6}
save: {every: 5}
output: $tmp/run
END

done_by 'a LoRA run' train "$tmp/run.yaml" log.every=1
said 'its last line' '*mean loss of the last 12 steps: 5.*adapter written to '"$tmp"'/run
12 steps  loss 5.???? *'
said 'its last line has a hash' '*  #????????'
said 'what it planned and took' '*memory: 0.0* GiB planned, recompute auto: none*memory: peak 0.0* GiB, as planned*'
said 'the data are counted' 'train
  rows                       120*'
noted 'a plain line a step' '*step 1/12  loss 5.*step 6/12  eval loss 5.*step 12/12  loss 5.*'
for f in adapter_model.safetensors adapter_config.json config.yaml metrics.jsonl checkpoint-12/manifest.json \
    checkpoint-12/state.safetensors checkpoint-10/adapter_model.safetensors; do
    checks=$((checks + 1))
    [ -f "$tmp/run/$f" ] || fail "no $f"
done
checks=$((checks + 3))
[ -d "$tmp/run/checkpoint-5" ] && fail 'checkpoint-5 is older than the two that are kept'
lines() # KEY: of metrics.jsonl that have it
{
    grep -c "\"$1\": " "$tmp/run/metrics.jsonl"
}
[ "$(lines step_time) $(lines eval_loss) $(lines save_s)" = '12 2 3' ] ||
    fail "metrics.jsonl: not 12 steps, 2 evaluations and 3 saves: $(cat "$tmp/run/metrics.jsonl")"
ls "$tmp"/run/runs/events.out.tfevents.* >/dev/null || fail 'no event file'

"$lorac" train "$tmp/run.yaml" output="$tmp/again" 2>/dev/null | tail -1 >"$tmp/a"
"$lorac" train "$tmp/run/config.yaml" output="$tmp/third" 2>/dev/null | tail -1 >"$tmp/b"
same 'the resolved config is the same run' "$tmp/a" "$tmp/b"
same 'one seed, one result' "$tmp/run/adapter_model.safetensors" "$tmp/again/adapter_model.safetensors"
same 'and from the resolved config' "$tmp/run/adapter_model.safetensors" "$tmp/third/adapter_model.safetensors"

done_by 'a finished run' train "$tmp/run.yaml"
noted 'is found finished' "continuing from $tmp/run/checkpoint-12, step 12 of 12"

done_by 'the first row at --verbose' train --verbose "$tmp/run.yaml" output="$tmp/v" train.max_steps=1
said 'as a table' '*trained*'

done_by 'a full run from random weights' train "$tmp/run.yaml" method=full lora=null model="{path: null, init: random, preset: tiny}" \
    output="$tmp/full" save.dtype=bf16
done_by 'writes a model folder' inspect "$tmp/full"

# ---- refusals
refused 'no config' 2 'lorac train: name a config file; see lorac train --help' train
refused 'an option that is none' 2 '--verbos: no such option; did you mean '\''--verbose'\''?' train --verbos x
refused 'no such file' 2 "$tmp/none.yaml: *No such file*" train "$tmp/none.yaml"
refused 'an override that is none' 2 "command line: optim.lrr: unknown key; did you mean 'optim.lr'?" \
    train "$tmp/run.yaml" optim.lrr=1
refused 'all errors at once' 2 "$tmp/run.yaml:2: lora.rank: only with method lora or qlora, and method is full
$tmp/run.yaml:2: lora.dropout: only with method lora or qlora, and method is full
command line: train.epochs: train.max_steps is set too; give one of the two" \
    train "$tmp/run.yaml" method=full train.epochs=3 train.max_steps=4
refused 'no such model' 2 "command line: model.path: *nowhere*" train "$tmp/run.yaml" model.path=nowhere output="$tmp/x" --quiet
refused 'a target that matches nothing' 2 '*lora.targets: *q_prj*' train "$tmp/run.yaml" lora.targets='[q_prj]' output="$tmp/x" --quiet
refused 'a backend that is not built in' 2 '*runtime.device: '\''abacus'\'' is not built in; there is cpu*' \
    train "$tmp/run.yaml" runtime.device=abacus output="$tmp/x" --quiet
refused 'a rate of another run' 2 "command line: optim.lr: is 0.001, and $tmp/run/checkpoint-12 was made with 0.002; set it back, or start anew in another output folder" \
    train "$tmp/run.yaml" optim.lr=1e-3 --quiet

printf '{"input_ids": [1, 2, 999], "labels": [1, 2, 3]}\n' >"$tmp/big.jsonl"
refused 'a token beyond the vocabulary' 2 "$tmp/big.jsonl:1: token 999 is beyond the model's vocabulary of 256; *" \
    train "$tmp/run.yaml" data.train="$tmp/big.jsonl" output="$tmp/x" --quiet
printf '[{"input_ids": [1, 2]}, {"input_ids": [1, 2, 999]}]' >"$tmp/big.json"
refused 'a token beyond the vocabulary, of many rows on a line' 2 "$tmp/big.json:1: row 2: token 999 is beyond the model's vocabulary of 256; *" \
    train "$tmp/run.yaml" data.train="$tmp/big.json" output="$tmp/x" --quiet

done_by 'a step timed kernel by kernel' train "$tmp/run.yaml" --profile --quiet output="$tmp/profiled"
said 'by module, op and kernel' '*one step, waiting for each kernel*by module*attention backward*optimizer*by kernel*matmul*all*100.0*steps  loss*'

# a folder that cannot be written is the machine's failure, not the input's
checks=$((checks + 1))
: >"$tmp/file"
run train "$tmp/run.yaml" output="$tmp/file/out" --quiet
[ $rc = 1 ] || [ $rc = 2 ] || fail "output below a file: exit code $rc"
[ -s "$tmp/err" ] || fail 'output below a file: nothing was said'

# a run cannot be made shorter than it was, and its config.yaml stays what it was
done_by 'eight steps' train "$tmp/run.yaml" --quiet output="$tmp/eight" optim.schedule=constant train.max_steps=8
refused 'four of them' 2 "command line: train.max_steps: 4 steps, and $tmp/eight/checkpoint-8 is of step 8; give as many or more, or another output" \
    train "$tmp/run.yaml" --quiet output="$tmp/eight" optim.schedule=constant train.max_steps=4
refused 'check says so, too' 2 "command line: train.max_steps: 4 steps, and $tmp/eight/checkpoint-8 is of step 8; *" \
    check "$tmp/run.yaml" --quiet output="$tmp/eight" optim.schedule=constant train.max_steps=4
checks=$((checks + 1))
grep -q 'max_steps: 8' "$tmp/eight/config.yaml" || fail "config.yaml: $(grep max_steps "$tmp/eight/config.yaml")"

# who reads along may leave, and closed streams are not files of the run
checks=$((checks + 1))
{ sleep 1; "$lorac" train "$tmp/run.yaml" output="$tmp/left" 2>&1; echo $? >"$tmp/code"; } | true
i=0
while [ $i -lt 300 ] && ! [ -s "$tmp/code" ]; do sleep 0.1 && i=$((i + 1)); done
[ "$(cat "$tmp/code")" = 1 ] && [ -s "$tmp/left/adapter_model.safetensors" ] || fail 'a reader that leaves ends the run'
checks=$((checks + 1))
"$lorac" train "$tmp/run.yaml" output="$tmp/mute" >/dev/null 2>&-
[ $? = 0 ] && ! [ -s "$tmp/mute/.lock" ] || fail 'notes go to a file of the run'
finish
