#!/bin/sh
# lorac bench: runs on the CPU with tiny shapes, says what it measured; its messages.
. "$(dirname "$0")/lib.sh"

fast="--device cpu --threads 1 --seq 16 --micro 2 --seconds 0 --steps 1"
# shellcheck disable=SC2086 # words they are
{
    done_by "LoRA" bench --model tiny $fast
    said "rows of both kinds" "*a row is a document*32 tokens, 2 documents*packed documents*32 tokens, *"
    said "speed, work, floor, memory" "tiny lora r16 all-linear fp32, 2 x 16 on CPU*tokens/s*4 N a token*step / floor *GiB live: weights*the same to the byte*"
    done_by "full, recomputed" bench --model tiny-qwen3 --method full --recompute full $fast
    said "says so" "tiny-qwen3 full fp32, 2 x 16, recompute full on CPU*6 N a token*"
    done_by "some modules, dropout" bench --model tiny --targets q_proj,v_proj --rank 4 --dropout 0.1 $fast
    done_by "embedding on the host, blocks of 128" bench --model tiny-qwen2 --method qlora --embedding host --quant-block 128 --rows full $fast
    said "says so" "tiny-qwen2 qlora nf4 double in blocks of 128 r16 all-linear fp32, 2 x 16, embedding on the host on CPU*the same to the byte*"
    refused "a tied one" 2 "--embedding: host is not possible, for the head is the embedding (tie_word_embeddings), which products read" bench --model tiny-qwen3 --embedding host $fast
    done_by "in exactly the memory that is planned" bench --model tiny --exact --json $fast
    e=$(sed -n 's/.*"extent_bytes": \([0-9]*\), "reserved_bytes": \([0-9]*\),.*/\1 \2/p' "$tmp/out" | head -n 1)
    checks=$((checks + 1))
    [ -n "$e" ] && [ "${e% *}" = "${e#* }" ] || fail "--exact reserved otherwise than planned: $e"
    done_by "in a part of the memory" bench --model tiny --memory 0.0625 $fast
    said "which it reserves" "*reserved * 0.062 GiB*"
    printf '3 9\n16\n5 5 2 1\n' >"$tmp/lens"
    done_by "packed documents" bench --model tiny --rows packed --lengths "$tmp/lens" $fast
    said "counts them" "*packed documents*step *, 25 tokens, 6 documents*"
    done_by "full, updated in backward" bench --model tiny-qwen3 --method full --update in_backward --rows full $fast
    said "says so" "tiny-qwen3 full fp32, 2 x 16, updated in backward on CPU*"
    done_by "states in 8 bits" bench --model tiny-qwen3 --method full --states int8 --rows full $fast
    said "says so" "tiny-qwen3 full fp32, 2 x 16, states in 8 bits on CPU*"
    refused "states of no kind" 2 "--states: must be one of fp32, int8, is 'int4'" bench --model tiny --states int4 $fast
    refused "bf16 gradients in fp32" 2 "--gradients: bf16 is for --method full in bf16" bench --model tiny --gradients bf16 $fast
    done_by "deterministic" bench --model tiny --deterministic --rows full $fast
    said "says so" "tiny lora*, deterministic on CPU*"
    done_by "full rows alone" bench --model tiny --rows full $fast
    said "says nothing of packed ones" "*a row is a document*" && case $(cat "$tmp/out") in *packed*) fail "packed rows, too" ;; esac
    # 178 tokens a dialogue: 16 rows of 1024 hold about 92
    done_by "the lengths of SAMsum" bench --model tiny --rows packed --json $fast --seq 1024 --micro 4
    said "many documents a row" '{*"rows": "packed"*"documents": [12][0-9],*'
    done_by "kernels and profile" bench --model tiny --kernels --profile $fast
    said "kernels" "*a copy on the device moves *rmsnorm_fwd * %*"
    said "modules" "*one step, waiting for each kernel*by module*embedding*attention norm*qkv*attention *o *ffn norm*gate_up*swiglu*down*head and loss*attention norm backward*optimizer*by op*"
    said "ops" "*by op*attention backward*adamw*by kernel*matmul*by class*products*attention*memory-bound*all*100.0*"
    done_by "profile of a step that makes things again" bench --model tiny --profile --rows full --recompute selective $fast
    # 2 layers: the norm of the feed-forward runs twice forward and twice again
    said "which shows" "*ffn norm  *  2 *down backward*ffn norm again  *  2 *ffn norm backward  *  2 *"
    done_by "JSON" bench --model tiny --json --kernels $fast
    said "an object a line" '{"what": "tiny lora*"rows": "full"*"step_s": *"tokens_per_s": *"step_over_floor": *"peak_bytes": *"kernels": {"matmul": *}'
    done_by "a quantised base, decoded ahead" bench --model tiny --method qlora --recompute full --decode-ahead --scratches 2 --rows full $fast
    said "says so" "tiny qlora nf4 double*, 2 scratches ahead on CPU*the same to the byte*"
    refused "scratches of nothing" 2 "--scratches: only with --method qlora" bench --model tiny --scratches 2 $fast
    refused "ahead without a second scratch" 2 "--decode-ahead: needs --scratches of 2 or more" bench --model tiny --method qlora --scratches 1 --decode-ahead $fast
    decode="--decode --device cpu --threads 1 --prompt 9 --new 3"
    done_by "decoding" bench --model tiny --batch 2 $decode
    said "speed, bytes, bandwidth" "tiny decode fp32, batch 2, prompt 9, new 3 on CPU*tokens/s in all*ms, 3 in turn*GB a pass: weights*of a copy*GiB live; planned *"
    for q in nf4 fp4 int8 fp8; do
        done_by "decoding from $q with adapters" bench --model tiny-qwen3 --quantize $q --unmerged --json $decode
        said "as JSON, in the planned memory" '{"what": "tiny-qwen3 decode '$q'*, adapters r16 unmerged*"decode_tokens_per_s": *"weight_bytes": *'
        p=$(sed -n 's/.*"peak_bytes": \([0-9]*\), "planned_bytes": \([0-9]*\)}.*/\1 \2/p' "$tmp/out")
        checks=$((checks + 1))
        [ -n "$p" ] && [ "${p% *}" = "${p#* }" ] || fail "decoding from $q took otherwise than planned: $p"
    done
    refused "a flag of steps" 2 "--seq: has no meaning with --decode" bench --model tiny --seq 4 $decode
    refused "a flag of decoding" 2 "--batch: has no meaning without --decode" bench --model tiny --batch 2 $fast
    refused "a base of no kind" 2 "--quantize: must be one of none, nf4, fp4, int8, fp8, is 'int3'" bench --model tiny --quantize int3 $decode
    refused "no sequence" 2 "--batch: must be from 1 to 4096, is 0" bench --model tiny --batch 0 $decode
    refused "a cache that does not fit" 2 "decoding needs *take a smaller --batch or a smaller --prompt" bench --model tiny --memory 0.01 --batch 64 --decode --device cpu --prompt 900 --new 3
    for flag in "seconds 1" "steps 1" "zero 1" "prefetch 1" "ctas 0" "spare 0" "dropout 0"; do
        refused "a number of steps" 2 "--${flag% *}: has no meaning with --decode" bench --model tiny --$flag $decode
    done
    for flag in "rank 8" "targets q_proj" "dropout 0.1"; do
        refused "an adapter of full tuning" 2 "--${flag% *}: has no meaning with --method full" bench --model tiny --method full --$flag $fast
    done
    refused "DoRA of full tuning" 2 "--dora: has no meaning with --method full" bench --model tiny --method full --dora $fast
    for flag in "zero 3" "prefetch 2" "ctas 4"; do
        refused "ranks that are not there" 2 "--${flag% *}: has no meaning on one rank" bench --model tiny --$flag $fast
    done
    done_by "DoRA" bench --model tiny --dora --method qlora --rows full $fast
    said "DoRA" 'tiny qlora nf4 double dora r16 all-linear fp32*'
    refused "blocks of nothing" 2 "--quant-block: with nf4 and fp4, a power of two from 32 to 4096; is 0" bench --model tiny --method qlora --quant-block 0 $fast
    refused "blocks without codes" 2 "--quant-block: only with --method qlora" bench --model tiny --quant-block 0 $fast
    refused "a rank beyond the most" 2 "--rank: LoRA rank of * must be an integer from 1 to 32768, found 40000" bench --model tiny --rank 40000 $fast
    refused "no shape" 2 "lorac bench: name a shape*" bench $fast
    refused "too little memory" 2 "the step needs 0.* GiB and there are 0.06; take a smaller --micro, or --recompute auto" bench --model tiny --device cpu --seq 256 --micro 256 --recompute selective --memory 0.0625
    refused "a wrong shape" 2 "--model: there is no 'tini'; did you mean 'tiny'?" bench --model tini $fast
    refused "a wrong method" 2 "--method: must be one of lora, full, qlora, is 'half'" bench --model tiny --method half $fast
    refused "a wrong target" 2 "*wings*" bench --model tiny --targets wings $fast
    refused "bf16 on the CPU" 2 "--precision: the CPU computes in fp32*" bench --model tiny --precision bf16 $fast
    refused "a wrong device" 2 "--device: 'tpu' is not built in*" bench --model tiny --device tpu --seq 16
    refused "no rows" 2 "--micro: must be from 1*" bench --model tiny --device cpu --micro 0
    done_by "the matrix" bench --model tiny --matrix $fast
    said "a row a way" "tiny lora*, 2 x 16*tokens/s*peak, GiB*library's attention *recompute selective *recompute full *nf4 base*int8 base*"
    done_by "the matrix as JSON" bench --model tiny --matrix --json $fast
    said "an object a way" '{"what"*"way": "library*"to_floor"*"fits": true}*"way": "library*recompute full"*}'
    done_by "offload" bench --model tiny --method full --offload optimizer+params $fast
    said "what the host has" "*offload optimizer+params*the same to the byte*host * GiB a rank, * of them pinned; a step brings * GB up and * GB down*"
    refused "half an offload" 2 "--offload: must be one of none, optimizer, optimizer+params, is 'half'" bench --model tiny --offload half $fast
    printf '3 0\n' >"$tmp/lens"
    refused "no length" 2 "$tmp/lens: length 2 must be from 1 to *" bench --model tiny --lengths "$tmp/lens" $fast
    refused "rows of no kind" 2 "--rows: must be one of both, full, packed, is 'half'" bench --model tiny --rows half $fast
}
# Two ranks: the tokens of both, what they sent, and what they would do by themselves.
two() # NAME ARGS...
{
    title=$1 && shift
    export WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=$((20000 + ($$ * 7 + checks) % 12000))
    RANK=1 LOCAL_RANK=1 "$lorac" bench --model tiny $fast "$@" >"$tmp/rank1" 2>&1 &
    export RANK=0 LOCAL_RANK=0
    done_by "$title" bench --model tiny $fast "$@"
    wait
    unset WORLD_SIZE MASTER_ADDR MASTER_PORT RANK LOCAL_RANK
    [ -s "$tmp/rank1" ] && fail "$title: rank 1 says: $(cat "$tmp/rank1")"
}
two "two ranks" --method full --zero 3 --rows full --memory 0.25
said "of both" "*64 tokens, 4 documents*tokens/s in all*ranks *2  stage 3; each sends *exposed *unsharded * scaling *the same to the byte*"
two "two ranks with nothing ahead, the steps alone" --method full --zero 3 --prefetch 0 --steps-only --rows full --memory 0.25
said "no more than that" "*stage 3; each sends *" && case $(cat "$tmp/out") in *exposed*) fail "exposed communication, too" ;; esac
two "a table of the most rows that fit" --matrix --largest --seq 350 --memory 0.0117
said "by plan" "*rows of 350*recompute full *ZeRO-2, the same, recompute full *ZeRO-3, the same, recompute full *nf4 base, the same*"
two "a table of what does not fit" --matrix --micro 4096 --memory 0.03125
said "by plan, too" "*rows *ZeRO-3, library's attention *4096 does not fit: needs * of 0.0 GiB*"
two "the same as JSON" --matrix --micro 4096 --memory 0.03125 --json
said "with what they need" '*"way": "ZeRO-3, library*"micro": 4096, "ranks": 2, "zero": 3, "extent_bytes": *"fits": false}*'
finish
