#!/bin/sh
# lorac bench: runs on the CPU with tiny shapes, says what it measured; its messages.
. "$(dirname "$0")/lib.sh"

fast="--device cpu --threads 1 --seq 16 --micro 2 --seconds 0 --steps 1"
# shellcheck disable=SC2086 # words they are
{
    done_by "LoRA" bench --model tiny $fast
    said "speed, work, floor, memory" "tiny lora r16 all-linear fp32, 2 x 16 on CPU*tokens/s*4 N a token*step / floor *GiB live: weights*the same to the byte*"
    done_by "full, recomputed" bench --model tiny-qwen3 --method full --recompute full $fast
    said "says so" "tiny-qwen3 full fp32, 2 x 16, recompute full on CPU*6 N a token*"
    done_by "some modules, dropout" bench --model tiny --targets q_proj,v_proj --rank 4 --dropout 0.1 $fast
    done_by "in a part of the memory" bench --model tiny --memory 0.0625 $fast
    said "which it reserves" "*reserved * 0.062 GiB*"
    printf '3 9\n16\n5 5 2 1\n' >"$tmp/lens"
    done_by "packed documents" bench --model tiny --lengths "$tmp/lens" $fast
    said "counts them" "*packed documents on CPU*"
    done_by "kernels and profile" bench --model tiny --kernels --profile $fast
    said "kernels" "*a copy on the device moves *rmsnorm_fwd * %*"
    said "ops" "*one step, waiting for each kernel*attention backward*optimizer*by kernel*matmul*all*100.0*"
    done_by "JSON" bench --model tiny --json --kernels $fast
    said "one object" '{"what": "tiny lora*"step_s": *"tokens_per_s": *"step_over_floor": *"peak_bytes": *"kernels": {"matmul": *}'
    refused "no shape" 2 "lorac bench: name a shape*" bench $fast
    refused "too little memory" 2 "the step needs 0.* GiB and there are 0.06; take a smaller --micro, or --recompute auto" bench --model tiny --device cpu --seq 256 --micro 256 --recompute selective --memory 0.0625
    refused "a wrong shape" 2 "--model: there is no 'tini'; did you mean 'tiny'?" bench --model tini $fast
    refused "a wrong method" 2 "--method: must be one of lora, full, is 'half'" bench --model tiny --method half $fast
    refused "a wrong target" 2 "*wings*" bench --model tiny --targets wings $fast
    refused "bf16 on the CPU" 2 "--precision: the CPU computes in fp32*" bench --model tiny --precision bf16 $fast
    refused "a wrong device" 2 "--device: 'tpu' is not built in*" bench --model tiny --device tpu --seq 16
    refused "no rows" 2 "--micro: must be from 1*" bench --model tiny --device cpu --micro 0
    printf '3 17\n' >"$tmp/lens"
    refused "a length beyond the row" 2 "$tmp/lens: length 2 must be from 1 to 16*" bench --model tiny --lengths "$tmp/lens" $fast
}
finish
