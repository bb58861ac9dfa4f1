# lorac slurm: the scripts, and one on a real Slurm of one node: stopped before its time limit, requeued, and at its end
# the bytes of a run that nobody stopped.
. "$(dirname "$0")/lib.sh"
case $lorac in /*) ;; *) lorac=$PWD/$lorac ;; esac # a job runs in a folder of its own
root=$(cd "$root" && pwd)

model=$root/tests/fixtures/models/qwen3-d64
cat >"$tmp/run.yaml" <<END
model: {path: "$model"}
lora: {rank: 4, dropout: 0.1}
data: {train: "$model/packed.jsonl", format: tokens, max_length: 64, cache: off}
batch: {global: 4}
optim: {lr: 2e-3, warmup_steps: 3}
train: {max_steps: 4000}
output: $tmp/slurm
save: {before_end: 108}
END
refused 'no config' 2 '*name a config file*' slurm
refused 'a config that is none' 2 '*nothing.yaml*' slurm "$tmp/nothing.yaml"
refused 'half a node' 2 '*--gpus: 12 do not fill nodes of 8*' slurm "$tmp/run.yaml" --gpus 12 runtime.device=cuda
refused 'a sweep without values' 2 "*--sweep: must be KEY=VALUE,VALUE*'optim.lr='*" slurm "$tmp/run.yaml" --sweep optim.lr=
refused 'a sweep of no key' 2 '*optim.lrr: unknown key*' slurm "$tmp/run.yaml" --sweep optim.lrr=1,2
refused 'a value twice' 2 '*--sweep: lora.rank: 8 comes twice*' slurm "$tmp/run.yaml" --sweep lora.rank=8,4,8
refused 'a key twice' 2 '*--sweep: lora.rank comes twice*' slurm "$tmp/run.yaml" --sweep lora.rank=8,4 --sweep lora.rank=2
refused 'a sweep of folders' 2 '*--sweep: output: *' slurm "$tmp/run.yaml" --sweep output=a,b
refused 'a sweep with a wrong value' 2 '*lora.rank*' slurm "$tmp/run.yaml" --sweep lora.rank=4,many
refused 'GPUs of a run on the CPU' 2 "--gpus: the config's runtime.device is cpu; *" slurm "$tmp/run.yaml" --gpus 2
refused 'ranks of a run on GPUs' 2 "--ranks: the config's runtime.device is cuda, *" slurm "$tmp/run.yaml" --ranks 2 runtime.device=cuda
for t in abc 1:2:3:4 1-2-3 -5 5- 1: ''; do
    refused "a time of '$t'" 2 '*--time: must be *' slurm "$tmp/run.yaml" --time="$t"
done
for t in 90 1:30 01:30:00 2-12 2-12:30 2-12:30:00 UNLIMITED; do
    done_by "a time of $t" slurm "$tmp/run.yaml" --time "$t"
done
refused 'two words' 2 "*--account: must be one word*'a b'*" slurm "$tmp/run.yaml" --account 'a b'
done_by 'sixteen GPUs' slurm "$tmp/run.yaml" --gpus 16 --partition long runtime.device=cuda optim.lr=1e-3
said 'sixteen GPUs' '#!/bin/bash*--nodes=2 *--ntasks-per-node=8 *--partition=long*--signal=USR1@108*train *optim.lr=1e-3 "$@"*'
checks=$((checks + 1))
bash -n "$tmp/out" || fail 'the script is no bash'
# The combinations of a sweep, as the shell of each task would make them.
done_by 'a sweep' slurm "$tmp/run.yaml" --sweep optim.lr=1e-3,2e-3 --sweep lora.rank=4,8,16
sed -n '/^n=/,/^sweep+=("output/p' "$tmp/out" >"$tmp/sweep"
for n in 0 1 2 3 4 5; do
    SLURM_ARRAY_TASK_ID=$n bash -c ". $tmp/sweep; echo \${sweep[@]}"
done >"$tmp/combinations"
checks=$((checks + 2))
[ "$(sort -u "$tmp/combinations" | wc -l)" = 6 ] || fail 'not six combinations'
grep -qxF "optim.lr=2e-3 lora.rank=8 output=$tmp/slurm/optim.lr=2e-3/lora.rank=8" "$tmp/combinations" || fail "task 3 is $(sed -n 4p "$tmp/combinations")"

if ! command -v slurmctld >/dev/null || ! command -v munged >/dev/null || [ "$(id -u)" != 0 ]; then
    echo 'SKIPPED: a run under Slurm needs slurm-wlm, munge and root'
    finish
fi
cluster=$tmp/cluster
mkdir "$cluster"
trap 'scancel --me 2>/dev/null; bash "$root/tests/cli/one-node-slurm.sh" stop "$cluster"; rm -rf "$tmp"' EXIT
bash "$root/tests/cli/one-node-slurm.sh" start "$cluster" || fail 'Slurm did not start'
export SLURM_CONF="$cluster/slurm.conf"

# Two ranks of a step; a batch script that starts the program itself is no rank of any.
short="train --quiet $tmp/run.yaml train.max_steps=3 save.before_end=0 runtime.threads=1"
cat >"$tmp/ranks.sbatch" <<END
#!/bin/bash
#SBATCH --ntasks=2
"$lorac" $short output="$tmp/alone"
srun "$lorac" $short output="$tmp/two" parallel.zero=2
END
checks=$((checks + 2))
(cd "$tmp" && timeout 120 sbatch --wait --output ranks.log ranks.sbatch >/dev/null) || fail "ranks: $(cat "$tmp/ranks.log")"
[ "$(grep -c '^3 steps  loss' "$tmp/ranks.log")" = 2 ] || fail "ranks: $(cat "$tmp/ranks.log")"
paste -d' ' "$tmp/alone/metrics.jsonl" "$tmp/two/metrics.jsonl" | sed -E 's/.*"loss": ([0-9.]+),.*"loss": ([0-9.]+),.*/\1 \2/' |
    awk '{ d = $1 / $2 - 1; if (d < -1e-6 || d > 1e-6) exit 1; n++ } END { exit n != 3 }' || fail 'two ranks under srun: other losses'

done_by 'the run that nobody stops' train --quiet "$tmp/run.yaml" output="$tmp/whole"
"$lorac" slurm "$tmp/run.yaml" --lorac "$lorac" --time 2 --cpus-per-task 1 --name job >"$tmp/job.sbatch"
# Slurm looks at limits twice a minute: its signal would come anywhere, so the clock is what stops these starts
job=$(cd "$tmp" && sbatch --parsable --signal=USR1@1 job.sbatch --quiet)
[ -n "$job" ] || { fail 'Slurm took no job' && finish; }
state=
for _ in $(seq 500); do
    state=$(squeue --noheader --states=all --jobs="$job" --format=%T)
    case $state in COMPLETED | FAILED | TIMEOUT | CANCELLED) break ;; esac
    sleep 0.5
done
checks=$((checks + 3))
[ "$state" = COMPLETED ] || { fail "the job ended $state" && tail -5 "$tmp/job-$job.log" >&2; }
restarts=$(scontrol show job "$job" | sed -n 's/.*Restarts=\([0-9]*\).*/\1/p')
[ "${restarts:-0}" -ge 1 ] || fail 'the job was never put back into the queue'
grep -q 'stopped by .* after step' "$tmp/job-$job.log" || fail 'no start was stopped before the limit'
echo "cli slurm: $restarts restarts"
same 'adapter' "$tmp/whole/adapter_model.safetensors" "$tmp/slurm/adapter_model.safetensors"

finish
