/* tokenizer.json of the `tokenizers` library: the BPE model, its added tokens, what goes around a text. */
#include "data/tokenizer_json.h"

#include "data/merges.h"

#include <stdlib.h>
#include <string.h>

/* ---- NUL in a token ---- */

/* jansson takes no NUL in an object's key, which a vocabulary may have ("\u0000"): the escape is read
 * as U+FDD0, a code point that Unicode gives to nobody, and turned back in tokens. */
static const char NUL_MARK[] = "\xEF\xB7\x90";

typedef struct Source {
    const char *path;
    bool marked; /* NUL_MARK stands for NUL */
    const char *text;
    bool has_merges;
    ListText merges; /* in text; the JSON tree has an empty list */
} Source;

/* The text with the escapes replaced, in fresh memory; NULL when there are none. */
static char *mark_nuls(const char *data, size_t *len)
{
    StrBuf b = {0};
    size_t done = 0, at = 0;
    for (const char *hit; (hit = bytes_find(data + at, *len - at, "\\u0000", 6));) {
        size_t from = (size_t)(hit - data), slashes = 0;
        while (slashes < from && data[from - 1 - slashes] == '\\')
            slashes++;
        at = from + 6;
        if (slashes % 2) continue; /* an escaped backslash before u0000 */
        strbuf_append(&b, data + done, from - done);
        strbuf_puts(&b, NUL_MARK);
        done = at;
    }
    if (!done) return NULL;
    strbuf_append(&b, data + done, *len - done);
    *len = b.len;
    return strbuf_take(&b);
}

/* A token as the file means it: *s, or a copy in b. */
static void unmark(const Source *src, StrBuf *b, const char **s, size_t *n)
{
    const char *hit = src->marked ? bytes_find(*s, *n, NUL_MARK, 3) : NULL;
    if (!hit) return;
    strbuf_reset(b);
    for (; hit; hit = bytes_find(*s, *n, NUL_MARK, 3)) {
        strbuf_append(b, *s, (size_t)(hit - *s));
        strbuf_putc(b, '\0');
        *n -= (size_t)(hit - *s) + 3;
        *s = hit + 3;
    }
    strbuf_append(b, *s, *n);
    *s = b->data;
    *n = b->len;
}

/* ---- model ---- */

static Status model_error(Err *err, const char *path, const char *key, const char *what)
{
    return err_set(err, E_INPUT, "%s: model.%s: %s", path, key, what);
}

static Status read_vocab(Tokenizer *t, const Json *model, const Source *src, Err *err)
{
    const char *path = src->path;
    StrBuf token = {0};
    Status st = OK;
    const Json *vocab = json_get(model, "vocab");
    if (!json_is(vocab, JK_OBJECT))
        return model_error(err, path, "vocab", "must be an object of token and id");
    vocab_reserve(&t->vocab, json_size(vocab));
    for (void *it = json_first(vocab); it && st == OK; it = json_next(vocab, it)) {
        const char *key = json_iter_key(it);
        size_t n = json_iter_key_len(it);
        int64_t id;
        unmark(src, &token, &key, &n);
        if (!json_int(json_iter_value(it), &id) || id < 0 || id > VOCAB_MAX_ID)
            st = err_set(err, E_INPUT,
                         "%s: model.vocab: '%.80s': its id must be a number from 0 to %d", path,
                         key, VOCAB_MAX_ID);
        else if (!vocab_add(&t->vocab, (int)id, key, n))
            st = err_set(err, E_INPUT, "%s: model.vocab: '%.80s': id %d has another token already",
                         path, key, (int)id);
    }
    strbuf_clear(&token);
    return st;
}

static Status read_merge(Tokenizer *t, const char *const s[2], const size_t n[2], StrBuf *both,
                         int *id)
{
    strbuf_reset(both);
    strbuf_append(both, s[0], n[0]);
    strbuf_append(both, s[1], n[1]);
    int left = vocab_find(&t->vocab, s[0], n[0]), right = vocab_find(&t->vocab, s[1], n[1]);
    /* Merges that make the same token mostly stand together. */
    size_t n_last;
    const char *last = vocab_piece(&t->vocab, *id, &n_last);
    if (!last || n_last != both->len || memcmp(last, both->data, n_last) != 0)
        *id = vocab_find(&t->vocab, both->data, both->len);
    if (left >= 0 && right >= 0 && *id >= 0) {
        bpe_add_pair(&t->bpe, left, right, (int)t->bpe.n_merges++, *id);
        return OK;
    }
    int k = left < 0 ? 0 : 1;
    if (left < 0 || right < 0) { /* else it is both that there is no token for */
        strbuf_reset(both);
        strbuf_append(both, s[k], n[k]);
    }
    return E_INPUT;
}

static Status read_merges(Tokenizer *t, const Json *model, const Source *src, Err *err)
{
    const Json *merges = json_get(model, "merges");
    if (!json_is(merges, JK_ARRAY) || !src->has_merges)
        return model_error(err, src->path, "merges", "must be a list of pairs");
    if (json_size(merges)) return model_error(err, src->path, "merges", "is there twice");
    StrBuf both = {0}, parts[2] = {{0}};
    const ListText *list = &src->merges;
    MergeIter it = {src->text + list->from, src->text + list->to, src->path, list->line, err};
    Status st = OK;
    int id = -1;
    bpe_reserve(&t->bpe, (list->to - list->from) / 24);
    for (bool more = true; st == OK && more;) {
        const char *s[2];
        size_t n[2];
        st = merges_next(&it, s, n, &more);
        if (st != OK || !more || !s[0]) continue;
        unmark(src, &parts[0], &s[0], &n[0]);
        unmark(src, &parts[1], &s[1], &n[1]);
        st = read_merge(t, s, n, &both, &id);
        if (st != OK)
            err_set(err, st, "%s:%d: model.merges[%zu]: '%.40s' is not in the vocabulary",
                    src->path, it.line, it.n, both.data ? both.data : "");
    }
    merges_end(&it);
    strbuf_clear(&both);
    strbuf_clear(&parts[0]);
    strbuf_clear(&parts[1]);
    return st;
}

/* A part that no byte-level or SentencePiece-like model has, and that we cannot do. */
static Status refuse_text(const Json *model, const char *key, const char *path, Err *err)
{
    const Json *j = json_get(model, key);
    const char *s;
    size_t n;
    if (json_is_null(j) || (json_str(j, &s, &n) && !n)) return OK;
    return model_error(err, path, key, "is not supported");
}

static Status model_flag(const Json *model, const char *key, bool *out, const char *path, Err *err)
{
    const Json *j = json_get(model, key);
    if (json_is_null(j) || json_bool(j, out)) return OK;
    return model_error(err, path, key, "must be true or false");
}

static Status read_model(Tokenizer *t, const Json *file, const Source *src, Err *err)
{
    const char *path = src->path;
    const Json *model = json_get(file, "model");
    if (!json_is(model, JK_OBJECT))
        return err_set(err, E_INPUT, "%s: model: must be an object, found %s", path,
                       json_kind_name(model));
    const Json *named = json_get(model, "type");
    if (!json_is_null(named) && !json_is(named, JK_STRING))
        return err_set(err, E_INPUT, "%s: model.type: must be a string, found %s", path,
                       json_kind_name(named));
    const char *type = json_type(model);
    if (*type && !str_eq(type, "BPE"))
        return err_set(err, E_INPUT, "%s: model.type: %s is not supported; lorac knows BPE", path,
                       type);
    Bpe *b = &t->bpe;
    TRY(refuse_text(model, "continuing_subword_prefix", path, err));
    TRY(refuse_text(model, "end_of_word_suffix", path, err));
    double dropout = 0;
    if (json_number(json_get(model, "dropout"), &dropout) && dropout != 0)
        return model_error(err, path, "dropout",
                           "other than 0 would make every encoding another one");
    TRY(model_flag(model, "fuse_unk", &b->fuse_unk, path, err));
    TRY(model_flag(model, "byte_fallback", &b->byte_fallback, path, err));
    TRY(model_flag(model, "ignore_merges", &b->ignore_merges, path, err));
    TRY(read_vocab(t, model, src, err));
    const Json *unk = json_get(model, "unk_token");
    if (!json_is_null(unk)) {
        const char *s;
        size_t n;
        if (!json_str(unk, &s, &n))
            return model_error(err, path, "unk_token", "must be a string or null");
        b->unk_id = vocab_find(&t->vocab, s, n);
        if (b->unk_id < 0) return model_error(err, path, "unk_token", "is not in the vocabulary");
    }
    return read_merges(t, model, src, err);
}

/* ---- added tokens ---- */

/* The id that the reference gives: the vocabulary's, or the next free one behind it, in the order of the
 * list.  Files that state another would mean other tokens there than here. */
static Status add_token(Tokenizer *t, const AddedToken *token, int *next, const char *where,
                        Err *err)
{
    int known = token_id(t, token->content, token->n);
    int id = known >= 0 ? known : *next;
    if (token->id != id)
        return err_set(err, E_INPUT, "%s: '%.80s' says id %d, but %s %d", where, token->content,
                       token->id, known >= 0 ? "the vocabulary has it as" : "the next free id is",
                       id);
    if (known < 0) ++*next;
    tokenizer_put_added(t, token);
    return OK;
}

static Status read_added(Tokenizer *t, const Json *file, const TokenizerConfig *c, const char *path,
                         Err *err)
{
    const Json *list = json_get(file, "added_tokens");
    int next = t->vocab.n_found;
    if (!json_is_null(list) && !json_is(list, JK_ARRAY))
        return err_set(err, E_INPUT, "%s: added_tokens: must be a list, found %s", path,
                       json_kind_name(list));
    for (size_t i = 0; i < json_size(list); i++) {
        char *where = str_format("%s: added_tokens[%zu]", path, i);
        AddedToken token;
        int64_t id = -1;
        Status s = added_token_parse(&token, json_at(list, i), where, err);
        if (s == OK &&
            (!json_int(json_get(json_at(list, i), "id"), &id) || id < 0 || id > VOCAB_MAX_ID))
            s = err_set(err, E_INPUT, "%s.id: must be a number from 0 to %d", where, VOCAB_MAX_ID);
        token.id = (int)id;
        if (s == OK && token.n) s = add_token(t, &token, &next, where, err);
        free(where);
        TRY(s);
    }
    for (int i = 0; i < c->added.n; i++) {
        const AddedToken *token = &c->added.items[i];
        char *where = str_format("%s: added_tokens_decoder", c->path);
        Status s = add_token(t, token, &next, where, err);
        free(where);
        TRY(s);
    }
    return OK;
}

/* ---- post_processor ---- */

/* The special tokens around the text in a TemplateProcessing: one in front is BOS, one behind EOS. */
static Status read_template(Tokenizer *t, const Json *j, const char *path, Err *err)
{
    const Json *single = json_get(j, "single"), *specials = json_get(j, "special_tokens");
    bool behind = false;
    if (!json_is(single, JK_ARRAY))
        return err_set(err, E_INPUT,
                       "%s: post_processor: TemplateProcessing: single must be a list", path);
    for (size_t i = 0; i < json_size(single); i++) {
        const Json *piece = json_at(single, i);
        if (json_get(piece, "Sequence")) {
            behind = true;
            continue;
        }
        const char *name = "";
        int64_t id = -1;
        json_str(json_get(json_get(piece, "SpecialToken"), "id"), &name, NULL);
        const Json *ids = json_get(json_get(specials, name), "ids");
        bool *adds = behind ? &t->adds_eos : &t->adds_bos;
        if (!json_int(json_at(ids, 0), &id) || json_size(ids) != 1 || id < 0 || id > VOCAB_MAX_ID ||
            *adds)
            return err_set(
                err, E_INPUT,
                "%s: post_processor: TemplateProcessing: '%.80s': only one token before and one "
                "after the text is supported",
                path, name);
        *adds = true;
        *(behind ? &t->eos : &t->bos) = (int)id;
    }
    return OK;
}

static Status read_post_processor(Tokenizer *t, const Json *j, const char *path, Err *err)
{
    const char *type = json_type(j);
    if (json_is_null(j) || str_eq(type, "ByteLevel")) return OK; /* it only trims offsets */
    if (str_eq(type, "TemplateProcessing")) return read_template(t, j, path, err);
    const Json *list = json_get(j, "processors");
    if (!str_eq(type, "Sequence") || !json_is(list, JK_ARRAY))
        return err_set(
            err, E_INPUT,
            "%s: post_processor: type %s is not supported; lorac knows TemplateProcessing, "
            "ByteLevel and Sequence",
            path, *type ? type : "(none)");
    for (size_t i = 0; i < json_size(list); i++)
        TRY(read_post_processor(t, json_at(list, i), path, err));
    return OK;
}

/* ---- the whole ---- */

static Status read_parts(Tokenizer *t, const Json *file, const TokenizerConfig *c,
                         const Source *src, Err *err)
{
    const char *path = src->path;
    if (!json_is(file, JK_OBJECT))
        return err_set(err, E_INPUT, "%s: must be a JSON object, found %s", path,
                       json_kind_name(file));
    const char *version = "1.0";
    json_str(json_get(file, "version"), &version, NULL);
    if (!str_eq(version, "1.0"))
        return err_set(err, E_INPUT, "%s: version: '%s' is not supported; lorac knows 1.0", path,
                       version);
    TRY(read_normalizer(t, json_get(file, "normalizer"), path, err));
    TRY(read_pre_tokenizer(t, json_get(file, "pre_tokenizer"), path, err));
    TRY(read_decoder(t, json_get(file, "decoder"), path, err));
    TRY(read_model(t, file, src, err));
    TRY(read_post_processor(t, json_get(file, "post_processor"), path, err));
    bpe_finish(&t->bpe);
    TRY(read_added(t, file, c, path, err));
    t->kind = xstrdup(t->bpe.byte_level      ? "byte-level BPE"
                      : t->bpe.byte_fallback ? "BPE with byte fallback"
                                             : "BPE");
    return OK;
}

/* The text with an empty list in their place, as many lines long. */
static void without_merges(StrBuf *out, const Source *src, size_t len)
{
    const ListText *m = &src->merges;
    strbuf_append(out, src->text, m->from + 1);
    for (int i = 0; i < m->n_lines; i++)
        strbuf_putc(out, '\n');
    strbuf_append(out, src->text + m->to - 1, len - m->to + 1);
}

Status tokenizer_read_json(Tokenizer *t, const TokenizerConfig *c, const char *path,
                           const char *data, size_t len, Err *err)
{
    Json *file = NULL;
    char *marked = mark_nuls(data, &len);
    Source src = {.path = path, .marked = marked != NULL, .text = marked ? marked : data};
    src.has_merges = merges_find(&src.merges, src.text, len);
    StrBuf rest = {0};
    if (src.has_merges) without_merges(&rest, &src, len);
    Status s = json_parse(&file, src.has_merges ? rest.data : src.text,
                          src.has_merges ? rest.len : len, path, 1, 0, err);
    strbuf_clear(&rest);
    if (s == OK) s = read_parts(t, file, c, &src, err);
    json_free(file);
    free(marked);
    return s;
}
