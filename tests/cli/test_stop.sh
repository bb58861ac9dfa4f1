# A run that is asked to stop (SIGUSR1, SIGTERM, SIGINT, the near end of a Slurm job), again and again and also during
# evaluations and saves, ends with exit code 75 and a checkpoint each time, and at last in the bytes of one that was not.
. "$(dirname "$0")/lib.sh"

model=$root/tests/fixtures/models/qwen3-d64
cat >"$tmp/run.yaml" <<END
model: {path: "$model"}
lora: {rank: 4, dropout: 0.1}
data: {train: "$model/packed.jsonl", eval: "$model/packed.jsonl", format: tokens, max_length: 64, cache: off}
batch: {global: 4}
optim: {lr: 2e-3, warmup_steps: 3}
train: {max_steps: 240}
eval: {every: 2, tokens: 1}
END

# again NAME: the last run must have stopped on request
again()
{
    checks=$((checks + 1))
    [ $rc = 75 ] || { fail "$1: exit code $rc instead of 75" && show; }
}

done_by 'the run that nobody stops' train --quiet "$tmp/run.yaml" output="$tmp/whole" save.every=240

stops=0
rc=75
while [ $rc = 75 ] && [ $stops -lt 40 ]; do
    signal=$(echo 'USR1 TERM INT' | cut -d' ' -f$((stops % 3 + 1)))
    # a background job of a script ignores SIGINT unless it is set back
    every=$((stops % 2 ? 1 : 240)) # a request hits evaluations, or saves as well
    before=$(lines_of "$tmp/cut/metrics.jsonl")
    env --default-signal=INT "$lorac" train --quiet "$tmp/run.yaml" output="$tmp/cut" save.every=$every >"$tmp/out" 2>"$tmp/err" &
    pid=$!
    reaches "$tmp/cut/metrics.jsonl" $((before + 20 + 11 * (stops % 4))) $pid 30
    kill -$signal $pid 2>/dev/null
    wait $pid
    rc=$?
    [ $rc = 0 ] && break
    # before the run proper begins SIGINT ends the program as ever
    [ $rc = 130 ] && [ $signal = INT ] && rc=75 && continue
    again "$signal"
    said "$signal" "*stopped by SIG$signal after step*"
    stops=$((stops + 1))
done
echo "cli stop: $stops stops"
checks=$((checks + 2))
[ $rc = 0 ] || fail "the last start ended with $rc"
[ $stops -ge 2 ] || fail "only $stops requests hit the run"
losses "$tmp/whole/metrics.jsonl" >"$tmp/a"
losses "$tmp/cut/metrics.jsonl" >"$tmp/b"
same 'metrics.jsonl' "$tmp/a" "$tmp/b"
for f in adapter_model.safetensors checkpoint-240/state.safetensors; do
    same "$f" "$tmp/whole/$f" "$tmp/cut/$f"
done

# The end of a Slurm job: at once here, since 120 seconds before it are over; not looked at with 0.
SLURM_JOB_END_TIME=$(($(date +%s) + 60))
export SLURM_JOB_END_TIME
run train --quiet "$tmp/run.yaml" output="$tmp/limit"
again 'end of the job'
said 'end of the job' '*stopped by the near end of the Slurm job after step 0*checkpoint-0*'
done_by 'not looked at' train --quiet "$tmp/run.yaml" output="$tmp/limit" save.before_end=0
same 'result after the limit' "$tmp/whole/adapter_model.safetensors" "$tmp/limit/adapter_model.safetensors"

finish
