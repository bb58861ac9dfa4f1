/* What the tokenizer's tests share: small files written to a folder of the test, ids compared in words. */
#pragma once

#include "base/fs.h"
#include "data/tokenizer.h"
#include "tests/support/shared.h"
#include "tests/support/tmp.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

static inline void write_file(const char *dir, const char *name, const void *data, size_t n)
{
    Err err = {0};
    char *path = path_join(dir, name);
    cr_assert(file_write_atomic(path, data, n, &err) == OK, "%s", err.line);
    free(path);
}

static inline Tokenizer *load_or_fail(const char *path)
{
    Err err = {0};
    Tokenizer *t = NULL;
    cr_assert(tokenizer_load(&t, path, &err) == OK, "%s", err.line);
    return t;
}

/* tokenizer.json (and tokenizer_config.json, or NULL) in a folder of their own. */
static inline Tokenizer *load_text(const char *json, const char *config)
{
    char *dir = tmp_dir();
    write_file(dir, "tokenizer.json", json, strlen(json));
    if (config) write_file(dir, "tokenizer_config.json", config, strlen(config));
    Tokenizer *t = load_or_fail(dir);
    tmp_dir_remove(dir);
    return t;
}

static inline char *ids_text(const int32_t *ids, int64_t n)
{
    StrBuf b = {0};
    for (int64_t i = 0; i < n; i++)
        strbuf_printf(&b, "%s%d", i ? " " : "", (int)ids[i]);
    return strbuf_take(&b);
}

/* The ids of a text, as "1 2 3". */
static inline void expect_ids(const Tokenizer *t, const char *text, size_t len, int flags,
                              const char *want)
{
    TokenBuf b = {0};
    tokenizer_encode(t, &b, text, len, flags);
    char *got = ids_text(b.ids, b.n);
    cr_expect_str_eq(got, want, "'%s' gives %s, not %s", text, got, want);
    free(got);
    tokenbuf_clear(&b);
}

static inline void expect_starts(const Tokenizer *t, const char *text, size_t len, int flags,
                                 const char *want)
{
    TokenBuf b = {0};
    tokenizer_encode(t, &b, text, len, flags);
    char *got = ids_text(b.starts, b.n);
    cr_expect_str_eq(got, want, "the tokens of '%s' start at %s, not %s", text, got, want);
    free(got);
    tokenbuf_clear(&b);
}

/* Decodes "1 2 3", whole and as a stream. */
static inline void expect_text(const Tokenizer *t, const char *ids, bool skip_special,
                               const char *want)
{
    int32_t list[64] = {0};
    int n = 0;
    for (char *at = (char *)(uintptr_t)ids, *end; *at; at = end)
        list[n++] = (int32_t)strtol(at, &end, 10);
    StrBuf whole = {0}, pieces = {0};
    tokenizer_decode(t, &whole, list, n, skip_special);
    DecodeStream s = {0};
    for (int i = 0; i < n; i++)
        decode_stream_push(&s, t, &pieces, list[i], skip_special);
    decode_stream_end(&s, t, &pieces);
    strbuf_append(&whole, "", 0);
    strbuf_append(&pieces, "", 0);
    cr_expect_str_eq(whole.data, want, "[%s] decodes to '%s', not '%s'", ids, whole.data, want);
    cr_expect_str_eq(pieces.data, want, "[%s] streams to '%s', not '%s'", ids, pieces.data, want);
    strbuf_clear(&whole);
    strbuf_clear(&pieces);
}
