#!/bin/sh
# lorac plan: numbers, verdicts, messages; no GPU, no weights, no data needed.
. "$(dirname "$0")/lib.sh"

cat >"$tmp/c.yaml" <<YAML
model: {init: random, preset: llama-3-8b}
method: full
data: {train: $tmp/absent.jsonl, format: tokens, max_length: 4096}
batch: {global: 4, micro: 1}
train: {recompute: full}
output: $tmp/run
runtime: {device: cuda}
YAML

done_by "fits a B200" plan "$tmp/c.yaml" --gpu b200
said "says what it assumed" "*absent.jsonl is not there; full rows of 4096 tokens assumed*"
said "names the GPU" "*fits b200:*"
done_by "the H200 by default" plan "$tmp/c.yaml"
said "memory by category" "*weights*14.959*gradients*optimizer*activations*total*fits h200*"

run plan "$tmp/c.yaml" --gpu rtx-4090 batch.micro=4
[ "$rc" = 2 ] || fail "a plan that does not fit ends with $rc"
said "says by how much" "*does not fit rtx-4090: needs * of 22.*GiB*would fit with * train.update: in_backward, optim.clip_by: block, parallel.offload: optimizer+params (* GiB, * of host memory, *"
run plan "$tmp/c.yaml" --gpu rtx-4090 batch.micro=4 runtime.memory=1
said "nothing would do" "*does not fit rtx-4090: needs * of 1.00 GiB*the least is * train.update: in_backward, optim.clip_by: block, parallel.offload: optimizer+params (*"
run plan "$tmp/c.yaml" --gpu h200 batch.micro=4 train.recompute=none
said "says what would" "*would fit with *train.recompute: auto (* GiB, recompute *)*"

done_by "a mix that fits" plan "$tmp/c.yaml" --gpu h200 method=lora batch.global=8 batch.micro=8 train.recompute=auto
said "says which" "*recompute: auto takes selective in blocks 0 to *, none in the other *fits h200*"

done_by "a mix that fits in a part of it" plan "$tmp/c.yaml" --gpu h200 method=lora batch.micro=4 train.recompute=auto runtime.memory=25
said "says which" "*recompute: auto takes * in blocks 0 to *fits h200: * of 25.00 GiB*"

done_by "JSON" plan "$tmp/c.yaml" --json
said "is one object" '{"device": "h200", "fits": true, "assumed_data": true, "recompute": "full", *"advice": \[\]}'

sed 's/device: cuda/device: cpu/; s/llama-3-8b/tiny/; s/4096/128/' "$tmp/c.yaml" >"$tmp/cpu.yaml"
done_by "a plan for the CPU" plan "$tmp/cpu.yaml"
said "without floors" "*fits this machine's CPU*"

done_by "states on the host" plan "$tmp/c.yaml" --gpu rtx-4090 parallel.offload=optimizer+params optim.clip_by=block batch.global=1
said "what it takes there" "*parallel.offload optimizer+params: * GiB of host memory a rank, * of them pinned*a step brings * GB up and * GB down*at 24 GB/s each way: * s up, * are exposed*fits rtx-4090*"
done_by "states on hosts" plan "$tmp/c.yaml" --gpu h100 --ranks 16 parallel.offload=optimizer parallel.zero=3
said "for all ranks of one" "*of them pinned; * for 8 ranks of a host*"
done_by "JSON of it" plan "$tmp/c.yaml" --json parallel.offload=optimizer
said "is one object" '{*"up_bytes": *, "down_bytes": *, "host_exposed_s": *"offload": "optimizer", "host_bytes": *, "pinned_bytes": *}'
refused "half an offload" 2 "command line: parallel.offload: *none, optimizer, optimizer+params*" plan "$tmp/c.yaml" parallel.offload=half

refused "a GPU that nobody knows" 2 "--gpu: 'gtx-banana' is not in the table; there are h200, *" plan "$tmp/c.yaml" --gpu gtx-banana
refused "no config" 2 "lorac plan: name a config file*" plan
refused "bf16 on the CPU" 2 "command line: runtime.precision: the CPU computes in fp32*" plan "$tmp/cpu.yaml" runtime.precision=bf16
refused "a device that nobody knows" 2 "command line: runtime.device: 'tpu' is no device*" plan "$tmp/cpu.yaml" runtime.device=tpu
printf '{"input_ids": [1, 2, 3], "labels": [-100, 2, 3]}\n' >"$tmp/absent.jsonl"
run check "$tmp/cpu.yaml" runtime.device=plan
[ "$rc" = 2 ] || fail "a plan is no device to train on: $rc"
noted "says so" "*command line: runtime.device: 'plan' is not built in*"
done_by "a plan from data" plan "$tmp/cpu.yaml"
said "from these" "data: 1 micro-batch of 1 epoch compared, the largest 1 run*"
# How a quantised base is kept.
done_by "a base in 4 bits" plan "$tmp/c.yaml" --gpu h200 method=qlora
said "a base in 4 bits" '*base: nf4 in blocks of 64 with double quantisation: 224 matrices of the blocks, 6979.32 M weights at 4.13 bits (3.35 GiB); *'
done_by "a base from files" plan "$tmp/cpu.yaml" method=qlora model.init=null model.preset=null model.path="$root/tests/fixtures/quant/gptq-2bit-g32-v2"
said "a base from files" '*base: gptq of 2 bits kept in 4 in groups of 32: 7 matrices of the blocks, *'

# What is said to make a run fit does, every line of it, also where several settings are needed together.
advice_holds() # ABOUT WANTED ARGS...: WANTED: a pattern of the settings of one line
{
    about=$1 wanted=$2 && shift 2
    run plan "$@" && [ "$rc" = 2 ] || fail "$about: ends with $rc"
    sed -n 's/^  would fit with \(.*\) ([0-9.]* GiB.*/\1/p' "$tmp/out" >"$tmp/advice"
    grep -q "$wanted" "$tmp/advice" || { fail "$about: nothing like '$wanted'" && cat "$tmp/advice"; }
    while read -r line; do
        # shellcheck disable=SC2046 # a word a setting
        done_by "$about: $line" plan "$@" $(echo "$line" | sed 's/, / /g; s/: /=/g')
        said "$about: $line" '*fits *'
    done <"$tmp/advice"
}
echo '{"input_ids": [1, 2, 3, 4, 5, 6, 7, 8, 9]}' >"$tmp/rows.jsonl"
shape="model.init=random model.path=null model.preset=llama-3-8b"
# shellcheck disable=SC2086 # words they are
{
    advice_holds "ranks and a smaller batch" "parallel.zero: 3, batch.micro: " \
        "$root/configs/llama-3-8b-lora-8gpu.yaml" --ranks 8 --gpu h200 $shape runtime.memory=10
    advice_holds "the host and a smaller batch" "train.gradients: bf16, batch.micro: 2, parallel.offload: optimizer+params" \
        "$root/configs/llama-3-8b-full-8gpu.yaml" --gpu rtx-4090 $shape
    advice_holds "the embedding" "^model.embedding: host$" \
        "$tmp/c.yaml" --gpu h200 data.train="$tmp/none.jsonl" method=qlora runtime.memory=7 model.embedding=device
    advice_holds "bits" "^method: qlora" "$tmp/c.yaml" --gpu h200 data.train="$tmp/none.jsonl" method=lora runtime.memory=3.7
}
i=0 && while [ $i -lt 50 ]; do cat "$tmp/rows.jsonl" && i=$((i + 1)); done >"$tmp/many.jsonl"
advice_holds "evaluation" "^eval.tokens: 1$" "$tmp/cpu.yaml" runtime.memory=0.003 data.train="$tmp/rows.jsonl" data.eval.path="$tmp/many.jsonl"
i=0 && while [ $i -lt 4 ]; do cat "$tmp/rows.jsonl" && i=$((i + 1)); done >"$tmp/four.jsonl"
advice_holds "evaluation and the host, where the batch must stay" "^eval.tokens: 1, parallel.offload: optimizer+params$" "$tmp/cpu.yaml" \
    runtime.memory=0.0018 data.train="$tmp/four.jsonl" data.eval.path="$tmp/many.jsonl" data.packing=off train.update=in_backward \
    batch.micro=4 optim.clip_by=block train.recompute=auto
finish
