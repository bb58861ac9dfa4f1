# A run that is killed (kill -9) again and again, at any moment, saves included, ends in the bytes of one that was not:
# result, last checkpoint and the steps that metrics.jsonl tells.
. "$(dirname "$0")/lib.sh"

model=$root/tests/fixtures/models/qwen3-d64
cat >"$tmp/run.yaml" <<END
model: {path: "$model"}
lora: {rank: 4, dropout: 0.1}
data: {train: "$model/packed.jsonl", eval: "$model/batches.jsonl", format: tokens, max_length: 64, cache: off}
batch: {global: 4}
optim: {lr: 2e-3, warmup_steps: 3}
train: {max_steps: 60}
eval: {every: 7}
save: {every: 1, keep: 2, best: true}
END

done_by 'the run without a kill' train --quiet "$tmp/run.yaml" output="$tmp/whole"

kills=0
inside=0
rc=1
seed=${LORAC_KILL_SEED:-1}
while [ $rc != 0 ] && [ $kills -lt 100 ]; do
    before=$(lines_of "$tmp/cut/metrics.jsonl")
    "$lorac" train --quiet "$tmp/run.yaml" output="$tmp/cut" >"$tmp/out" 2>"$tmp/err" &
    pid=$!
    # some steps on from where the last one came, each of them saved; every fourth right after its start
    if [ $((kills % 4)) = 3 ]; then
        reaches "$tmp/cut/metrics.jsonl" 0 $pid 200
    else
        reaches "$tmp/cut/metrics.jsonl" $((before + 3 + (kills + seed) % 7)) $pid 20
    fi
    if kill -9 $pid 2>/dev/null; then
        wait $pid 2>/dev/null
        rc=$?
        [ $rc = 0 ] || kills=$((kills + 1))
    else
        wait $pid
        rc=$?
    fi
    [ $rc = 0 ] || [ $rc = 137 ] || { fail "exit code $rc after $kills kills" && show && break; }
    for left in "$tmp"/cut/.checkpoint-*; do
        [ -e "$left" ] && inside=$((inside + 1))
    done
    [ $kills -ge 15 ] && { run train --quiet "$tmp/run.yaml" output="$tmp/cut"; break; }
done
[ $rc = 0 ] || fail "the last start ended with $rc"
echo "cli kill: $kills kills, $inside of them inside a save"
checks=$((checks + 3))
[ $kills -ge 3 ] || fail "only $kills kills hit the run"
[ -z "$(ls -A "$tmp/cut" | grep -E '^\.checkpoint|^\.result')" ] || fail 'something half written was left behind'
losses "$tmp/whole/metrics.jsonl" >"$tmp/a"
losses "$tmp/cut/metrics.jsonl" >"$tmp/b"
same 'metrics.jsonl' "$tmp/a" "$tmp/b"
for f in adapter_model.safetensors adapter_config.json checkpoint-60/state.safetensors \
    checkpoint-60/adapter_model.safetensors; do
    same "$f" "$tmp/whole/$f" "$tmp/cut/$f"
done
ls "$tmp/whole" >"$tmp/a"
ls "$tmp/cut" >"$tmp/b"
same 'the names in the folder' "$tmp/a" "$tmp/b"

finish
