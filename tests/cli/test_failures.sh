# What machines do to a run: a full disk, a folder that cannot be written, a file, a program or data that are others on one rank.  It ends at
# once, on all ranks, with a line that names it; the checkpoints from before stay, and the next start goes on to the same bytes.
. "$(dirname "$0")/lib.sh"
no_launcher

model=$root/tests/fixtures/models/llama2-d64
cat >"$tmp/run.yaml" <<END
model: {path: "$model"}
lora: {rank: 4}
data: {train: "$model/packed.jsonl", format: tokens, max_length: 64, cache: off}
batch: {global: 4}
optim: {lr: 2e-3, schedule: constant}
train: {max_steps: 6}
save: {every: 3}
log: {tensorboard: false}
runtime: {threads: 1, memory: 0.5}
END

done_by 'nothing denied' train --quiet "$tmp/run.yaml" output="$tmp/whole"
done_by 'the first three steps' train --quiet "$tmp/run.yaml" output="$tmp/three" train.max_steps=3
state=$(stat -c %s "$tmp/three/checkpoint-3/state.safetensors")
adapter=$(stat -c %s "$tmp/three/checkpoint-3/adapter_model.safetensors")
limit=$((adapter / 512 + 8)) # blocks of 512 bytes: the state does not fit

# from_three NAME: $out, a folder that has checkpoint-3
from_three()
{
    out=$tmp/$1
    cp -r "$tmp/three" "$out"
}

# goes_on NAME: nothing half written in $out, checkpoint-3 is whole, and the run can be finished
goes_on()
{
    checks=$((checks + 1))
    [ -z "$(find "$out" -name '.checkpoint*')" ] || fail "$1: something half written was left behind"
    [ -e "$out/checkpoint-6" ] && fail "$1: there is a checkpoint-6"
    done_by "$1: checkpoint-3" inspect "$out/checkpoint-3"
    done_by "$1: the next start" train --quiet "$tmp/run.yaml" output="$out"
    same "$1" "$tmp/whole/checkpoint-6/state.safetensors" "$out/checkpoint-6/state.safetensors"
    same "$1" "$tmp/whole/adapter_model.safetensors" "$out/adapter_model.safetensors"
}

# with_limit COMMAND...: files of $limit blocks at most
cat >"$tmp/with_limit" <<END
#!/bin/sh
ulimit -f $limit
exec "\$@"
END
chmod +x "$tmp/with_limit"

# ---- one rank ------------------------------------------------------------------------------------

from_three limit
(
    real=$lorac
    lorac=$tmp/with_limit
    run "$real" train --quiet "$tmp/run.yaml" output="$out"
    echo "$rc" >"$tmp/rc"
)
rc=$(cat "$tmp/rc")
ends 'a limit of files' 1
noted 'a limit of files' "checkpoint at step 6: $out/.checkpoint-6.tmp/state.safetensors: no room for $state bytes: File too large"
goes_on 'a limit of files'

# ---- two ranks: the other one cannot write its part, in the background -----------------------------

for zero in 1 3; do
    from_three "limit$zero"
    on_last=$tmp/with_limit
    by_hand 2 -- train --quiet "$tmp/run.yaml" output="$out" parallel.zero=$zero
    on_last=
    ends 'a limit on rank 1' 1
    noted 'a limit on rank 1' "checkpoint at step 6: rank 1 of 2 on *: $out/.checkpoint-6.tmp/state.safetensors: cannot write: File too large"
    goes_on 'a limit on rank 1'
done

cp "$lorac" "$tmp/other" && printf 'x' >>"$tmp/other"
cat >"$tmp/with_other" <<END
#!/bin/sh
shift
exec "$tmp/other" "\$@"
END
chmod +x "$tmp/with_other"
on_last=$tmp/with_other
by_hand 2 -- train --quiet "$tmp/run.yaml" output="$tmp/x"
on_last=
ends 'another program' 2
noted 'another program' 'rank 1 of 2 has another program than rank 0; start every rank with the same one'

# ---- what only root can arrange ----------------------------------------------------------------------

if ! unshare -m sh -c "mkdir '$tmp/disk' && mount -t tmpfs none '$tmp/disk'" 2>/dev/null; then
    echo 'skipped: full disks, folders that cannot be written, other files on one rank: no mounts here'
    finish
fi

# inside OPTIONS DIR COMMAND...: with a tmpfs of those options at DIR, filled with checkpoint-3 where it has room; the names that are there
# afterwards in $tmp/left
cat >"$tmp/inside" <<END
#!/bin/sh
options=\$1 dir=\$2
shift 2
mkdir -p "\$dir"
mount -t tmpfs -o "\$options" none "\$dir" || exit 99
[ "\$options" = "\${options#ro}" ] && cp -r "$tmp/three/." "\$dir"
"\$@"
rc=\$?
find "\$dir" -mindepth 1 -maxdepth 1 -printf '%f\\n' | sort >"$tmp/left"
exit \$rc
END
chmod +x "$tmp/inside"

# on_disk OPTIONS ARGS...: the program with $tmp/disk on a disk like that
on_disk()
{
    options=$1
    shift
    unshare -m "$tmp/inside" "$options" "$tmp/disk" "$lorac" "$@" >"$tmp/out" 2>"$tmp/err" </dev/null
    rc=$?
}

left()
{
    checks=$((checks + 1))
    grep -qx 'checkpoint-3' "$tmp/left" || fail "$1: checkpoint-3 is gone"
    if grep -E '^\.checkpoint|^checkpoint-6' "$tmp/left" >&2; then fail "$1: something half written was left behind"; fi
}

# room for checkpoint-3, the adapter and half of another state
on_disk "size=$(((state + 3 * adapter + state / 2 + 65536) / 4096 * 4096))" train --quiet "$tmp/run.yaml" output="$tmp/disk"
ends 'a full disk' 1
noted 'a full disk' "checkpoint at step 6: $tmp/disk/.checkpoint-6.tmp/*.safetensors: no room for * bytes: No space left on device"
left 'a full disk'

# room for the large files, but not for the small ones beside them, which are written in the background
had=$(find "$tmp/three" | wc -l)
on_disk "nr_inodes=$((had + 3))" train --quiet "$tmp/run.yaml" output="$tmp/disk"
ends 'no more files' 1
noted 'no more files' "checkpoint at step 6: $tmp/disk/.checkpoint-6.tmp/*: cannot open for writing: No space left on device"
left 'no more files'

on_disk ro train --quiet "$tmp/run.yaml" output="$tmp/disk/run"
ends 'a read-only folder' 2
noted 'a read-only folder' "command line: output: nothing can be written to $tmp/disk: Read-only file system"

# hiding FILE BY: a starter of the last rank, which sees BY in its place
hiding()
{
    printf '#!/bin/sh\nmount --bind "%s" "%s" && exec "$@"\n' "$2" "$1" >"$tmp/bind"
    printf '#!/bin/sh\nexec unshare -m "%s" "$@"\n' "$tmp/bind" >"$tmp/hide"
    chmod +x "$tmp/bind" "$tmp/hide"
    on_last=$tmp/hide
}

cp -r "$model" "$tmp/model"
mkdir "$tmp/empty"
sed "s|model: {path: [^}]*}|model: {path: \"$tmp/model\"}|; s|train: \"[^\"]*\"|train: \"$tmp/model/packed.jsonl\"|" "$tmp/run.yaml" >"$tmp/own.yaml"
printf '{}' >"$tmp/no-model"
hiding "$tmp/model/model.safetensors" "$tmp/no-model"
by_hand 2 -- train --quiet "$tmp/own.yaml" output="$tmp/x"
ends 'weights that are no weights on one rank' 2
noted 'weights that are no weights on one rank' "$tmp/own.yaml:1: model.path: rank 1 of 2 on *: $tmp/model/model.safetensors: *"

hiding "$tmp/model" "$tmp/empty"
by_hand 2 -- train --quiet "$tmp/own.yaml" output="$tmp/x"
ends 'a model that is not there on one rank' 2
noted 'a model that is not there on one rank' "rank 1 of 2 on *: $tmp/own.yaml:*"

head -100 "$tmp/model/packed.jsonl" >"$tmp/other.jsonl"
hiding "$tmp/model/packed.jsonl" "$tmp/other.jsonl"
by_hand 2 -- train --quiet "$tmp/own.yaml" output="$tmp/x"
ends 'other data on one rank' 2
noted 'other data on one rank' 'rank 1 of 2 has another training data than rank 0; start every rank with the same one'

head -n 1 "$tmp/model/batches.jsonl" >"$tmp/other-eval.jsonl"
hiding "$tmp/model/batches.jsonl" "$tmp/other-eval.jsonl"
by_hand 2 -- train --quiet "$tmp/own.yaml" output="$tmp/x" data.eval="$tmp/model/batches.jsonl"
ends 'other validation data on one rank' 2
noted 'other validation data on one rank' 'rank 1 of 2 has another validation data than rank 0; start every rank with the same one'

# what a rank cannot read of a checkpoint
from_three unread
printf 'x' >"$tmp/no-state"
hiding "$out/checkpoint-3/state.safetensors" "$tmp/no-state"
by_hand 2 -- train --quiet "$tmp/run.yaml" output="$out"
ends 'a checkpoint that is another one on one rank' 2
noted 'a checkpoint that is another one on one rank' "*resume: $out holds checkpoint-3 and none that is whole, *(rank 1 of 2 on *: $out/checkpoint-3/state.safetensors: has 1 bytes, the manifest says $state)"
on_last=
goes_on 'a checkpoint that is another one on one rank'

finish
