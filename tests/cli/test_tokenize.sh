. "$(dirname "$0")/lib.sh"
t=$root/tests/fixtures/byte-tokenizer

done_by "help" tokenize --help
said "help" 'usage: lorac tokenize*'
done_by "text" tokenize --tokenizer "$t" 'the <s>' 'é' --bos --eos
said "text" '7 tokens
ids     1 262 37 65 120 67 2
pieces  <s> the Ġ < s > </s>
4 tokens
ids     1 200 174 2
pieces  <s> Ã © </s>'
done_by "specials" tokenize --tokenizer "$t" 'the <s>' --specials
said "specials" '3 tokens
ids     262 37 1
pieces  the Ġ <s>'
done_by "json" tokenize --tokenizer "$t" 'the "x' --json
said "json" '{"ids": \[262, 37, 39, 125\], "pieces": \["the", "Ġ", "\\"", "x"\]}'
done_by "ids" tokenize --tokenizer "$t" --ids 1 262 37 200 174
said "ids" '<s>the é'
printf 'the\n' >"$tmp/text"
done_by "file" tokenize --tokenizer "$t" --file "$tmp/text"
said "file" '2 tokens
ids     262 15
pieces  the Ċ'
printf '{"prompt": "the", "completion": "in"}\n\n{"prompt": "x", "completion": "y"}\n' >"$tmp/rows.jsonl"
done_by "data" tokenize --tokenizer "$t" --data "$tmp/rows.jsonl" --format completion
said "data" "$tmp/rows.jsonl:1: 4 tokens, 2 trained
      id  trained  token
       1  -        <s>
     262  -        the
     264  yes      in
       2  yes      </s>

$tmp/rows.jsonl:3: 4 tokens, 2 trained*"
done_by "one row, all" tokenize --tokenizer "$t" --data "$tmp/rows.jsonl" --format completion --rows 1 --train-on all --json
said "one row, all" '{"file": "*rows.jsonl", "line": 1, "ids": \[1, 262, 264, 2\], "pieces": *, "trained": \[false, true, true, true\]}'

refused "nothing" 2 'give TEXT, *' tokenize --tokenizer "$t"
refused "no tokenizer" 2 '--tokenizer: needs a folder or a file' tokenize x
refused "no such tokenizer" 2 '/none*' tokenize --tokenizer /none x
refused "id" 2 "--ids: '999' is no id; they are 0 to 267" tokenize --tokenizer "$t" --ids 999
refused "no id" 2 "--ids: 'x' is no id*" tokenize --tokenizer "$t" --ids x
refused "rows without data" 2 '--rows: has no meaning without --data' tokenize --tokenizer "$t" x --rows 2
refused "bos with data" 2 '--bos: has no meaning with --data' \
    tokenize --tokenizer "$t" --bos --data "$tmp/rows.jsonl" --format completion
refused "train-on" 2 "--train-on: 'none' is none of answer, assistant, all" \
    tokenize --tokenizer "$t" --data "$tmp/rows.jsonl" --format completion --train-on none
refused "no file" 2 '/none: *' tokenize --tokenizer "$t" --file /none
printf '{"prompt": "the"}\n' >"$tmp/bad.jsonl"
printf '[{"prompt": "the", "completion": "in"}, {"prompt": "x", "completion": "y"}]' >"$tmp/array.json"
done_by "rows of a line" tokenize --tokenizer "$t" --data "$tmp/array.json" --format completion
said "rows of a line" "$tmp/array.json:1: row 1: 4 tokens*$tmp/array.json:1: row 2: 4 tokens, 2 trained*"
done_by "rows of a line as JSON" tokenize --tokenizer "$t" --data "$tmp/array.json" --format completion --json
said "rows of a line as JSON" '*"line": 1, "row": 2, "ids": *'
refused "row" 2 "$tmp/bad.jsonl:1: completion: *" tokenize --tokenizer "$t" --data "$tmp/bad.jsonl" --format completion
finish
