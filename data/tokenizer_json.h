/* The two halves of the tokenizer.json reader, and what its files and tokenizer_config.json share. */
#pragma once

#include "base/json.h"
#include "data/tokenizer_impl.h"

/* tokenizer_steps.c: "normalizer", "pre_tokenizer" and "decoder" into t->norm, t->pre, t->dec. */
Status read_normalizer(Tokenizer *t, const Json *j, const char *path, Err *err) MUST_CHECK;
Status read_pre_tokenizer(Tokenizer *t, const Json *j, const char *path, Err *err) MUST_CHECK;
Status read_decoder(Tokenizer *t, const Json *j, const char *path, Err *err) MUST_CHECK;

/* j may be NULL, which is of no kind. */
static inline bool json_is(const Json *j, JsonKind kind)
{
    return j && json_kind(j) == kind;
}

static inline bool json_is_null(const Json *j)
{
    return !j || json_kind(j) == JK_NULL;
}

/* The "type" of a part of the pipeline, "" when it has none. */
static inline const char *json_type(const Json *j)
{
    const char *s = "";
    json_str(json_get(j, "type"), &s, NULL);
    return s;
}
