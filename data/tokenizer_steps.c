/* The pipeline of tokenizer.json: what is not known, or not in the order that we can run, is refused by
 * name. */
#include "data/tokenizer_json.h"

#include <stdlib.h>
#include <string.h>

typedef struct Part {
    Tokenizer *t;
    const char *path, *key; /* "normalizer", ... */
    Err *err;
} Part;

static Status unsupported(const Part *p, const Json *j, const char *known)
{
    const char *type = json_type(j);
    return err_set(p->err, E_INPUT, "%s: %s: %s%s is not supported; lorac knows %s", p->path,
                   p->key, *type ? "type " : "a part without a type", type, known);
}

static Status text_of(const Part *p, const Json *j, const char *key, const char **s, size_t *n)
{
    if (json_str(json_get(j, key), s, n)) return OK;
    return err_set(p->err, E_INPUT, "%s: %s: %s: %s must be a string, found %s", p->path, p->key,
                   json_type(j), key, json_kind_name(json_get(j, key)));
}

static Status bool_of(const Part *p, const Json *j, const char *key, bool absent, bool *out)
{
    const Json *v = json_get(j, key);
    *out = absent;
    if (json_is_null(v) || json_bool(v, out)) return OK;
    return err_set(p->err, E_INPUT, "%s: %s: %s: %s must be true or false, found %s", p->path,
                   p->key, json_type(j), key, json_kind_name(v));
}

static Status compile(const Part *p, Regex **re, const char *s, size_t n)
{
    Status st = regex_new(re, s, n, p->err);
    return st == OK ? OK : err_wrap(p->err, st, "%s: %s", p->path, p->key);
}

/* {"String": "..."} as a regex that matches just it. */
static Status compile_literal(const Part *p, Regex **re, const char *s, size_t n)
{
    StrBuf b = {0};
    for (size_t i = 0; i < n; i++) {
        if (s[i] && strchr("\\^$.|?*+()[]{}-", s[i])) strbuf_putc(&b, '\\');
        strbuf_putc(&b, s[i]);
    }
    Status st = compile(p, re, b.data ? b.data : "", b.len);
    strbuf_clear(&b);
    return st;
}

/* {"String": ...} or {"Regex": ...}. */
static Status pattern_of(const Part *p, const Json *j, const char **s, size_t *n, bool *is_regex)
{
    const Json *pattern = json_get(j, "pattern");
    *is_regex = !json_get(pattern, "String");
    if (json_str(json_get(pattern, *is_regex ? "Regex" : "String"), s, n)) return OK;
    return err_set(p->err, E_INPUT, "%s: %s: %s: pattern must have String or Regex", p->path,
                   p->key, json_type(j));
}

/* Calls fn for each part of a Sequence (its list is under `list`), nested ones too, or for j itself. */
typedef Status PartFn(const Part *p, const Json *j);
static Status each_part(const Part *p, const Json *j, const char *list, PartFn *fn)
{
    if (json_is_null(j)) return OK;
    if (!json_is(j, JK_OBJECT))
        return err_set(p->err, E_INPUT, "%s: %s: must be an object or null, found %s", p->path,
                       p->key, json_kind_name(j));
    if (!str_eq(json_type(j), "Sequence")) return fn(p, j);
    const Json *parts = json_get(j, list);
    if (!json_is(parts, JK_ARRAY))
        return err_set(p->err, E_INPUT, "%s: %s: Sequence must have a list of %s", p->path, p->key,
                       list);
    for (size_t i = 0; i < json_size(parts); i++)
        TRY(each_part(p, json_at(parts, i), list, fn));
    return OK;
}

/* ---- normalizer ---- */

static Status normalizer_part(const Part *p, const Json *j)
{
    const char *type = json_type(j), *s;
    size_t n;
    if (str_eq(type, "NFC")) {
        normalizer_add(&p->t->norm, NORM_NFC);
    } else if (str_eq(type, "Prepend")) {
        TRY(text_of(p, j, "prepend", &s, &n));
        NormStep *st = normalizer_add(&p->t->norm, NORM_PREPEND);
        st->to = bytes_dup(s, n);
        st->n_to = n;
    } else if (str_eq(type, "Replace")) {
        const char *to;
        size_t n_to;
        bool is_regex;
        TRY(pattern_of(p, j, &s, &n, &is_regex));
        TRY(text_of(p, j, "content", &to, &n_to));
        if (!is_regex && !n)
            return err_set(p->err, E_INPUT, "%s: %s: Replace: the pattern is empty", p->path,
                           p->key);
        NormStep *st = normalizer_add(&p->t->norm, NORM_REPLACE);
        st->to = bytes_dup(to, n_to);
        st->n_to = n_to;
        st->from = bytes_dup(s, n);
        st->n_from = n;
        if (is_regex) TRY(compile(p, &st->regex, s, n));
    } else {
        return unsupported(p, j, "NFC, Prepend, Replace and Sequence");
    }
    return OK;
}

Status read_normalizer(Tokenizer *t, const Json *j, const char *path, Err *err)
{
    Part p = {t, path, "normalizer", err};
    return each_part(&p, j, "normalizers", normalizer_part);
}

/* ---- pre_tokenizer ---- */

static Status split_part(const Part *p, const Json *j)
{
    static const char *const names[] = {"Isolated", "Removed", "MergedWithPrevious",
                                        "MergedWithNext", "Contiguous"};
    const char *s, *behavior;
    size_t n, n_behavior;
    bool is_regex, invert;
    TRY(pattern_of(p, j, &s, &n, &is_regex));
    TRY(text_of(p, j, "behavior", &behavior, &n_behavior));
    TRY(bool_of(p, j, "invert", false, &invert));
    PreStep *st = pretok_add(&p->t->pre, PRE_SPLIT);
    st->invert = invert;
    int i = 0;
    while (i < 5 && !str_eq(behavior, names[i]))
        i++;
    if (i == 5)
        return err_set(p->err, E_INPUT, "%s: %s: Split: unknown behavior '%s'", p->path, p->key,
                       behavior);
    st->behavior = (SplitBehavior)i;
    return is_regex ? compile(p, &st->regex, s, n) : compile_literal(p, &st->regex, s, n);
}

static Status byte_level_part(const Part *p, const Json *j)
{
    bool use_regex, prefix;
    TRY(bool_of(p, j, "use_regex", true, &use_regex));
    TRY(bool_of(p, j, "add_prefix_space", true, &prefix));
    PreStep *st = pretok_add(&p->t->pre, PRE_BYTE_LEVEL);
    st->scheme = prefix ? PREPEND_ALWAYS : PREPEND_NEVER;
    p->t->bpe.byte_level = true;
    return use_regex ? compile(p, &st->regex, GPT2_PATTERN, strlen(GPT2_PATTERN)) : OK;
}

/* One character, as UTF-8 with a NUL. */
static Status one_char(const Part *p, const Json *j, const char *key, char out[5])
{
    const char *s;
    size_t n;
    TRY(text_of(p, j, key, &s, &n));
    if (!n || char_len(s) != n)
        return err_set(p->err, E_INPUT, "%s: %s: %s: %s must be one character", p->path, p->key,
                       json_type(j), key);
    memcpy(out, s, n);
    out[n] = '\0';
    return OK;
}

/* prepend_scheme, or the older add_prefix_space. */
static Status prepend_scheme(const Part *p, const Json *j, PrependScheme *out)
{
    static const char *const names[] = {"always", "first", "never"};
    bool prefix;
    TRY(bool_of(p, j, "add_prefix_space", true, &prefix));
    *out = prefix ? PREPEND_ALWAYS : PREPEND_NEVER;
    const Json *scheme = json_get(j, "prepend_scheme");
    if (json_is_null(scheme)) return OK;
    const char *s = "";
    json_str(scheme, &s, NULL);
    for (int i = 0; i < 3; i++) {
        if (!str_eq(s, names[i])) continue;
        if (!prefix && i != PREPEND_NEVER) break;
        *out = (PrependScheme)i;
        return OK;
    }
    return err_set(
        p->err, E_INPUT,
        "%s: %s: Metaspace: prepend_scheme '%s' is unknown or contradicts add_prefix_space",
        p->path, p->key, s);
}

static Status metaspace_part(const Part *p, const Json *j)
{
    PreStep *st = pretok_add(&p->t->pre, PRE_METASPACE);
    TRY(one_char(p, j, "replacement", st->space));
    TRY(prepend_scheme(p, j, &st->scheme));
    return bool_of(p, j, "split", true, &st->split);
}

static Status digits_part(const Part *p, const Json *j)
{
    bool each;
    TRY(bool_of(p, j, "individual_digits", false, &each));
    PreStep *st = pretok_add(&p->t->pre, PRE_DIGITS);
    st->behavior = each ? SPLIT_ISOLATED : SPLIT_CONTIGUOUS;
    return compile(p, &st->regex, "\\p{N}", 5);
}

static Status pre_tokenizer_part(const Part *p, const Json *j)
{
    const char *type = json_type(j);
    if (p->t->bpe.byte_level)
        return err_set(p->err, E_INPUT, "%s: %s: %s behind ByteLevel is not supported", p->path,
                       p->key, *type ? type : "a part");
    if (str_eq(type, "Split")) return split_part(p, j);
    if (str_eq(type, "ByteLevel")) return byte_level_part(p, j);
    if (str_eq(type, "Metaspace")) return metaspace_part(p, j);
    if (str_eq(type, "Digits")) return digits_part(p, j);
    return unsupported(p, j, "Split, ByteLevel, Metaspace, Digits and Sequence");
}

Status read_pre_tokenizer(Tokenizer *t, const Json *j, const char *path, Err *err)
{
    Part p = {t, path, "pre_tokenizer", err};
    return each_part(&p, j, "pretokenizers", pre_tokenizer_part);
}

/* ---- decoder ---- */

static Status int_of(const Part *p, const Json *j, const char *key, int64_t *out)
{
    *out = 0;
    if (json_int(json_get(j, key), out) && *out >= 0) return OK;
    return err_set(p->err, E_INPUT, "%s: %s: %s: %s must be a number from 0", p->path, p->key,
                   json_type(j), key);
}

static bool has_step(const Decoder *d, DecodeStepKind kind)
{
    for (int i = 0; i < d->n; i++)
        if (d->steps[i].kind == kind) return true;
    return false;
}

static Status decoder_part(const Part *p, const Json *j)
{
    Decoder *d = &p->t->dec;
    const char *type = json_type(j);
    bool fused = has_step(d, DEC_FUSE), alone = d->n == 0 && d->kind == DECODE_STEPS;
    if (d->kind == DECODE_BYTE_LEVEL || (str_eq(type, "ByteLevel") && !alone))
        return err_set(p->err, E_INPUT, "%s: %s: ByteLevel beside other parts is not supported",
                       p->path, p->key);
    if (str_eq(type, "ByteLevel")) {
        d->kind = DECODE_BYTE_LEVEL;
    } else if (str_eq(type, "Replace") && !fused) {
        const char *from, *to;
        size_t n_from, n_to;
        bool is_regex;
        TRY(pattern_of(p, j, &from, &n_from, &is_regex));
        TRY(text_of(p, j, "content", &to, &n_to));
        if (is_regex || !n_from)
            return err_set(p->err, E_INPUT, "%s: %s: Replace by a Regex is not supported", p->path,
                           p->key);
        DecodeStep *st = decoder_add(d, DEC_REPLACE);
        st->from = bytes_dup(from, st->n_from = n_from);
        st->to = bytes_dup(to, st->n_to = n_to);
    } else if (str_eq(type, "Metaspace") && !fused && !has_step(d, DEC_BYTE_FALLBACK)) {
        char space[5];
        PrependScheme scheme;
        TRY(one_char(p, j, "replacement", space));
        TRY(prepend_scheme(p, j, &scheme));
        DecodeStep *st = decoder_add(d, DEC_METASPACE);
        st->from = bytes_dup(space, st->n_from = strlen(space));
        st->to = bytes_dup(" ", st->n_to = 1);
        st->n = scheme != PREPEND_NEVER;
    } else if (str_eq(type, "ByteFallback") && !fused && !has_step(d, DEC_BYTE_FALLBACK)) {
        d->byte_step = d->n;
        decoder_add(d, DEC_BYTE_FALLBACK);
    } else if (str_eq(type, "Fuse")) {
        decoder_add(d, DEC_FUSE);
    } else if (str_eq(type, "Strip") && !(fused && has_step(d, DEC_STRIP))) {
        char space[5];
        int64_t start, stop;
        TRY(one_char(p, j, "content", space));
        TRY(int_of(p, j, "start", &start));
        TRY(int_of(p, j, "stop", &stop));
        if (stop)
            return err_set(p->err, E_INPUT, "%s: %s: Strip: stop other than 0 is not supported",
                           p->path, p->key);
        DecodeStep *st = decoder_add(d, DEC_STRIP);
        st->from = bytes_dup(space, st->n_from = strlen(space));
        st->n = start;
        st->fused = fused;
    } else {
        return unsupported(p, j,
                           "ByteLevel, Metaspace and Sequences of Replace, ByteFallback, Fuse, "
                           "Strip in that order");
    }
    return OK;
}

Status read_decoder(Tokenizer *t, const Json *j, const char *path, Err *err)
{
    if (json_is_null(j)) {
        t->dec.kind = DECODE_SPACED;
        return OK;
    }
    Part p = {t, path, "decoder", err};
    return each_part(&p, j, "decoders", decoder_part);
}
