# lorac init: model folders that the other commands read.
. "$(dirname "$0")/lib.sh"

done_by 'a preset' init --preset tiny --seed 1 "$tmp/a"
said 'its size' "$tmp/a: * parameters, 2 layers of width 64, vocabulary 512, fp32"
done_by 'the same again' init --preset tiny --seed 1 "$tmp/b"
same 'one seed, one model' "$tmp/a/model.safetensors" "$tmp/b/model.safetensors"
done_by 'another seed' init --preset tiny --seed 2 "$tmp/c"
checks=$((checks + 1))
cmp -s "$tmp/a/model.safetensors" "$tmp/c/model.safetensors" && fail 'seed 2 gave the model of seed 1'
done_by 'from a config.json, in bf16' init --config "$root/tests/fixtures/models/qwen3-d64" --dtype bf16 "$tmp/q"
done_by 'it can be read' inspect "$tmp/q"
done_by 'shards' init --preset mini --max-shard 1 "$tmp/s"
checks=$((checks + 1))
[ -f "$tmp/s/model.safetensors.index.json" ] || fail 'no index of shards'
done_by 'they can be read' inspect "$tmp/s"

refused 'no shape' 2 'lorac init: give one of --preset NAME, --config FILE' init "$tmp/x"
refused 'no such preset' 2 "--preset: there is no 'tyny'; did you mean 'tiny'?" init --preset tyny "$tmp/x"
mkdir "$tmp/weights" && echo x >"$tmp/weights/model.safetensors"
refused 'a folder that holds weights alone' 2 "$tmp/weights: *" init --preset tiny "$tmp/weights"
refused 'a vocabulary below the ids that a preset names' 2 '--vocab: must be above 2, a token that tiny names, is 2' init --preset tiny --vocab 2 "$tmp/small"
refused 'a folder that holds a model' 2 "$tmp/a: holds a config.json already; name a new folder" init --preset tiny "$tmp/a"
echo x >"$tmp/file"
refused 'a file in the way' 2 "$tmp/file: is a file; name a new folder" init --preset tiny "$tmp/file"
refused 'a file above it' 2 "$tmp/file: is a file; name a new folder" init --preset tiny "$tmp/file/below/x"
refused 'no folder' 2 'lorac init: name one folder to write; see lorac init --help' init --preset tiny
refused 'a dtype that is none' 2 "--dtype: must be fp32, bf16 or fp16, is 'int4'" init --preset tiny --dtype int4 "$tmp/x"

refused 'more tokens than ids have room for' 2 '--vocab: must be from 1 to 2147483647, is 99999999999' \
    init "$tmp/huge" --preset tiny --vocab 99999999999

refused 'no tokens' 2 '--vocab: must be from 1 to 2147483647, is 0' init "$tmp/none" --preset tiny --vocab 0
refused 'less than none' 2 '--vocab: must be from 1 to 2147483647, is -1' init "$tmp/none" --preset tiny --vocab -1
refused 'a vocabulary without end' 2 "--vocab: needs an integer, got '-9223372036854775808'" init "$tmp/none" --preset tiny --vocab -9223372036854775808
refused 'a seed below zero' 2 '--seed: must be from 0 to 9223372036854775807, is -1' init "$tmp/none" --preset tiny --seed -1
refused 'shards of nothing' 2 '--max-shard: must be from 1 to 1073741824, is 0' init "$tmp/none" --preset tiny --max-shard 0
refused 'shards whose bytes cannot be counted' 2 '--max-shard: must be from 1 to 1073741824, is 99999999999999999' \
    init "$tmp/none" --preset tiny --max-shard 99999999999999999
[ -e "$tmp/none" ] && fail 'a refused folder was made'
refused 'no name' 2 'the folder to write has no name' init --preset tiny ''
refused 'less ids than its own tokens need' 2 "--vocab: must be above 2, a token that * names, is 2" init "$tmp/v" --vocab 2 \
    --config "$root/tests/fixtures/models/qwen3-d64"

finish
