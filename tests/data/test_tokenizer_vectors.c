/* The ids that other people's libraries give: the vectors that lie beside the project, for every file that
 * a vocabulary comes in, and decoding them. */
#include "base/fs.h"
#include "base/json.h"
#include "data/tokenizer.h"
#include "tests/support/shared.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static Tokenizer *load(const char *rel)
{
    char *path = shared_or_skip(rel);
    Err err = {0};
    Tokenizer *t = NULL;
    cr_assert(tokenizer_load(&t, path, &err) == OK, "%s", err.line);
    free(path);
    return t;
}

/* Every line of a JSONL file: ids under `key`; the text comes back, whole and as a stream. */
static int check_lines(const Tokenizer *t, const char *name, const char *rel, const char *key)
{
    char *path = shared_or_skip(rel), *text;
    size_t len;
    Err err = {0};
    cr_assert(file_read(&text, &len, path, &err) == OK, "%s", err.line);
    TokenBuf b = {0};
    StrBuf back = {0}, stream = {0};
    int n_lines = 0;
    for (char *line = text, *end; *line; line = end + 1, n_lines++) {
        end = line + strcspn(line, "\n");
        if (!*end) break;
        Json *row;
        cr_assert(json_parse(&row, line, (size_t)(end - line), rel, n_lines + 1, 0, &err) == OK,
                  "%s", err.line);
        const char *in = NULL;
        size_t n_in = 0;
        const Json *ids = json_get(row, key);
        cr_assert(json_str(json_get(row, "text"), &in, &n_in) && json_kind(ids) == JK_ARRAY);
        b.n = 0;
        tokenizer_encode(t, &b, in, n_in, 0);
        cr_assert(b.n == (int64_t)json_size(ids), "%s: %s:%d: %d ids for %zu", name, rel,
                  n_lines + 1, (int)b.n, json_size(ids));
        for (int64_t i = 0; i < b.n; i++) {
            int64_t want = -1;
            json_int(json_at(ids, (size_t)i), &want);
            cr_assert(b.ids[i] == want, "%s: %s:%d: id %d is %d, not %d", name, rel, n_lines + 1,
                      (int)i, (int)b.ids[i], (int)want);
            cr_assert(b.starts[i] >= (i ? b.starts[i - 1] : 0) && (size_t)b.starts[i] < n_in);
        }
        strbuf_reset(&back);
        strbuf_reset(&stream);
        tokenizer_decode(t, &back, b.ids, b.n, false);
        DecodeStream s = {0};
        for (int64_t i = 0; i < b.n; i++)
            decode_stream_push(&s, t, &stream, b.ids[i], false);
        decode_stream_end(&s, t, &stream);
        cr_assert(back.len == n_in && (!n_in || memcmp(back.data, in, n_in) == 0),
                  "%s: %s:%d: decoded", name, rel, n_lines + 1);
        cr_assert(stream.len == n_in && (!n_in || memcmp(stream.data, in, n_in) == 0),
                  "%s: %s:%d: stream", name, rel, n_lines + 1);
        json_free(row);
    }
    tokenbuf_clear(&b);
    strbuf_clear(&back);
    strbuf_clear(&stream);
    free(text);
    free(path);
    return n_lines;
}

#define VECTORS "data/tokenizer-vectors/"

static void check_all(const char *rel, const char *column, const char *hard)
{
    Tokenizer *t = load(rel);
    int n = check_lines(t, rel, VECTORS "reference-ids.jsonl", column);
    cr_assert(n == 1335, "%d lines", n);
    if (hard) cr_assert(check_lines(t, rel, hard, "ids") > 20);
    printf("%s: %s, %d ids, all texts agree\n", rel, tokenizer_kind(t), tokenizer_vocab_size(t));
    tokenizer_free(t);
}

Test(tokenizer_vectors, llama2)
{
    check_all("data/tokenizers/llama2", "llama2", VECTORS "llama-spm.jsonl");
    check_all("data/tokenizers/llama2/tokenizer.model", "llama2", VECTORS "llama-spm.jsonl");
    check_all("data/tokenizers/tinyllama-chat", "llama2", VECTORS "llama-spm.jsonl");
    check_all("data/tokenizers/tinyllama-chat/tokenizer.model", "llama2",
              VECTORS "llama-spm.jsonl");
}

Test(tokenizer_vectors, llama3)
{
    check_all("data/tokenizers/llama3", "llama3", VECTORS "llama-bpe.jsonl");
    check_all("data/tokenizers/llama3/tokenizer.model", "llama3", VECTORS "llama-bpe.jsonl");
}

Test(tokenizer_vectors, stories260k)
{
    check_all("data/stories260k", "stories260k", NULL);
    check_all("data/stories260k/tokenizer.model", "stories260k", NULL);
}
