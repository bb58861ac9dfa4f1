# Files without an end, and longer ones than anybody has: refused by name with the limit, in a moment and in bounded memory.
. "$(dirname "$0")/lib.sh"
small_model
m=$tmp/model
adapter=$tmp/adapter

# One that reads on and on ends with 124.
cat >"$tmp/limited" <<END
#!/bin/sh
exec timeout 100 "$lorac" "\$@"
END
chmod +x "$tmp/limited"
lorac=$tmp/limited

# changed FOLDER FILE: a copy of FOLDER, in which FILE leads to /dev/zero, in $tmp/changed
changed()
{
    rm -rf "$tmp/changed"
    cp -r "$1" "$tmp/changed"
    ln -sf /dev/zero "$tmp/changed/$2"
}

limit='does not end within 256 MiB, the most that is read of what is no regular file'
refused 'a config' 2 "/dev/zero: $limit" check /dev/zero
changed "$m" config.json
refused 'config.json' 2 "$tmp/changed/config.json: $limit" generate --model "$tmp/changed" --prompt x
changed "$m" model.safetensors
refused 'model.safetensors' 2 "$tmp/changed/model.safetensors: $limit" generate --model "$tmp/changed" --prompt x
changed "$m" tokenizer.json
refused 'tokenizer.json' 2 "$tmp/changed/tokenizer.json: $limit" tokenize --tokenizer "$tmp/changed" x
changed "$adapter" adapter_config.json
refused 'adapter_config.json' 2 "$tmp/changed/adapter_config.json: $limit" \
    merge --model "$m" --adapter "$tmp/changed" --out "$tmp/merged"
refused 'a prompt' 2 "/dev/zero: $limit" generate --model "$m" --prompt-file /dev/zero
refused 'rows' 2 '/dev/zero:1: expected a JSON array of objects, or one object a line, found 0x00' \
    tokenize --tokenizer "$m" --data /dev/zero --format completion

# of_stdin ARGS...: as run, with this function's standard input; $rc goes through a file, since the last command of a pipe has a
# shell of its own
of_stdin()
{
    "$lorac" "$@" >"$tmp/out" 2>"$tmp/err"
    echo $? >"$tmp/rc"
}

printf '{"prompt": "a", "completion": "b"}\n{"prompt": "' >"$tmp/start"
tr '\0' x </dev/zero 2>/dev/null | cat "$tmp/start" - 2>/dev/null |
    of_stdin tokenize --tokenizer "$m" --data /dev/stdin --format completion
rc=$(cat "$tmp/rc")
ends 'a row' 2
noted 'a row' '/dev/stdin:2: the row that starts here is longer than 64 MiB: is a quote or a bracket missing\?'
tr '\0' ' ' </dev/zero 2>/dev/null | of_stdin tokenize --tokenizer "$m" --data /dev/stdin --format completion
rc=$(cat "$tmp/rc")
ends 'white space' 2
noted 'white space' '/dev/stdin:1: more than 64 MiB of white space before a row'

cp -r "$m" "$tmp/long"
truncate -s 300M "$tmp/long/config.json"
refused 'a file that ends, but late' 2 "$tmp/long/config.json: 314572800 bytes of JSON, at most 268435456 are read" \
    generate --model "$tmp/long" --prompt x
truncate -s 300M "$tmp/long.yaml"
refused 'such a config' 2 "$tmp/long.yaml: 314572800 bytes of YAML, at most 8388608 are read" check "$tmp/long.yaml"

# the largest tokenizers that people use have 35 MB
head -c 35000000 /dev/zero | tr '\0' ' ' >>"$m/tokenizer.json"
done_by 'a tokenizer of 35 MB' tokenize --tokenizer "$m" x

finish
