/* Loading: which file, which reader, what the files beside it say; and the plain accessors. */
#include "data/tokenizer.h"

#include "base/fs.h"
#include "base/hash.h"
#include "base/json.h"
#include "data/tokenizer_impl.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_FILE = 1 << 30 };

const char GPT2_PATTERN[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
const char LLAMA3_PATTERN[] =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+"
    "[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

void tokenizer_put_added(Tokenizer *t, const AddedToken *token)
{
    added_put(&t->added, token);
    vocab_name(&t->vocab, token->id, token->content, token->n);
}

/* HF's own rule for special tokens that only tokenizer_config.json names: those that the model knows are
 * looked for in the text as well. */
static int named_token(Tokenizer *t, const char *content)
{
    if (!content) return -1;
    int id = tokenizer_id(t, content);
    if (id >= 0 && !added_find(&t->added, content, strlen(content)))
        tokenizer_put_added(
            t, &(AddedToken){(char *)(uintptr_t)content, strlen(content), id, .special = true});
    return id;
}

/* Where no file says which token is BOS or EOS, the name does. */
static int guess(const Tokenizer *t, const char *const *names)
{
    for (; *names; names++) {
        const AddedToken *a = added_find(&t->added, *names, strlen(*names));
        if (a && a->special) return a->id;
    }
    return -1;
}

static Status name_specials(Tokenizer *t, const TokenizerConfig *c, const char *path, Err *err)
{
    static const char *const bos[] = {"<s>", "<|begin_of_text|>", "<|startoftext|>", NULL};
    static const char *const eos[] = {"</s>", "<|end_of_text|>", "<|endoftext|>", NULL};
    int from_template = t->bos, ends_with = t->eos;
    bool spm = t->dec.kind == DECODE_SPM; /* its own file says */
    named_token(t, c->unk);
    const struct {
        const char *key, *name;
        int *id;
    } ends[] = {{"bos_token", c->bos, &t->bos}, {"eos_token", c->eos, &t->eos}};
    for (int i = 0; i < 2; i++) {
        if (!ends[i].name) continue;
        *ends[i].id = named_token(t, ends[i].name);
        if (*ends[i].id <
            0) /* transformers would add it, behind what the model has an embedding for */
            return err_set(err, E_INPUT, "%s: %s: '%s' is no token of %s; name one, or null",
                           c->path ? c->path : path, ends[i].key, ends[i].name, path);
    }
    if (c->pad) t->pad = named_token(t, c->pad);
    bool quiet = !c->bos && !c->eos; /* "bos_token": null is an answer where eos_token is given */
    if (t->bos < 0 && quiet) t->bos = guess(t, bos);
    if (t->eos < 0 && quiet) t->eos = guess(t, eos);
    if (c->llama_class && !spm) {
        t->adds_bos = c->add_bos != 0;
        t->adds_eos = c->add_eos == 1;
    } else if (t->adds_bos && from_template >= 0 && from_template != t->bos) {
        return err_set(err, E_INPUT,
                       "%s: post_processor: puts token %d in front, but bos_token is %d", path,
                       from_template, t->bos);
    } else if (t->adds_eos && ends_with >= 0 && ends_with != t->eos) {
        return err_set(err, E_INPUT,
                       "%s: post_processor: puts token %d at the end, but eos_token is %d", path,
                       ends_with, t->eos);
    }
    t->adds_bos = t->adds_bos && t->bos >= 0;
    t->adds_eos = t->adds_eos && t->eos >= 0;
    return OK;
}

/* Makes what a token that is looked for in normalized text looks like there, and the tries. */
static void build_added(Tokenizer *t)
{
    char **forms = xcalloc((size_t)t->added.n, sizeof *forms);
    size_t *n_forms = xcalloc((size_t)t->added.n, sizeof *n_forms);
    RegexScratch *scratch = regex_scratch_new();
    MappedText bufs[2] = {0};
    bool spm = t->dec.kind == DECODE_SPM; /* user-defined symbols are written as they look */
    for (int i = 0; i < t->added.n; i++) {
        const AddedToken *a = &t->added.items[i];
        TextView v = {a->content, a->n, NULL, 0};
        if (a->normalized && !spm) normalizer_run(&t->norm, &v, bufs, scratch, false);
        forms[i] = bytes_dup(v.s, v.n);
        n_forms[i] = v.n;
    }
    added_build(&t->added, forms, n_forms);
    for (int i = 0; i < t->added.n; i++)
        free(forms[i]);
    free(forms);
    free(n_forms);
    regex_scratch_free(scratch);
    mapped_text_clear(&bufs[0]);
    mapped_text_clear(&bufs[1]);
}

static uint64_t hash_all(const Tokenizer *t, const void *data, size_t len)
{
    uint64_t h = hash64(data, len, 0);
    for (int i = 0; i < t->added.n; i++) {
        const AddedToken *a = &t->added.items[i];
        int32_t v[] = {a->id, a->special, a->normalized, a->single_word, a->lstrip, a->rstrip};
        h = hash64(a->content, a->n, h);
        h = hash64(v, sizeof v, h);
    }
    int32_t v[] = {t->bos, t->eos, t->pad, t->adds_bos, t->adds_eos, t->prefix_once};
    return hash64(v, sizeof v, h);
}

/* "QUJD 0": the first line of a tiktoken file. */
static bool looks_like_ranks(const uint8_t *s, size_t n)
{
    size_t i = 0;
    while (i < n && i < 4096 && s[i] > ' ')
        i++;
    return i > 0 && i + 1 < n && s[i] == ' ' && s[i + 1] >= '0' && s[i + 1] <= '9';
}

static Status read_bytes(Tokenizer *t, const TokenizerConfig *c, const char *path, const void *data,
                         size_t len, Err *err)
{
    if (len > MAX_FILE)
        return err_set(err, E_INPUT, "%s: too large for a tokenizer: %zu bytes", path, len);
    if (!len) return err_set(err, E_INPUT, "%s: the file is empty", path);
    if (str_ends(path, ".json")) return tokenizer_read_json(t, c, path, data, len, err);
    if (looks_like_ranks(data, len)) return tokenizer_read_tiktoken(t, c, path, data, len, err);
    return tokenizer_read_spm(t, c, path, data, len, err);
}

/* Makes *out of the bytes and what the files beside them say; takes c's chat template. */
static Status assemble(Tokenizer **out, TokenizerConfig *c, const char *path, const void *data,
                       size_t len, Err *err)
{
    Tokenizer *t = xcalloc(1, sizeof *t);
    t->bos = t->eos = t->pad = -1;
    t->bpe.vocab = &t->vocab;
    t->bpe.unk_id = -1;
    t->dec.byte_step = -1;
    Status s = read_bytes(t, c, path, data, len, err);
    if (s == OK) s = name_specials(t, c, path, err);
    if (s != OK) {
        tokenizer_free(t);
        return s;
    }
    build_added(t);
    t->hash = hash_all(t, data, len);
    t->chat_template = c->chat_template;
    c->chat_template = NULL;
    *out = t;
    return OK;
}

Status tokenizer_load_bytes(Tokenizer **out, const char *name, const void *data, size_t len,
                            Err *err)
{
    TokenizerConfig none = {.add_bos = -1, .add_eos = -1};
    return assemble(out, &none, name, data, len, err);
}

/* The older place for added tokens, which transformers reads where tokenizer_config.json has no added_tokens_decoder: what
 * it says must be known from the other files. */
static Status check_added_file(const Tokenizer *t, const char *path, const char *dir, Err *err)
{
    char *file = path_join(dir, "added_tokens.json");
    Json *list = NULL;
    Status s = path_exists(file) ? json_parse_file(&list, file, err) : OK;
    for (void *it = json_first(list); it && s == OK; it = json_next(list, it)) {
        int64_t id = -1;
        const char *token = json_iter_key(it);
        if (!json_int(json_iter_value(it), &id) || tokenizer_id(t, token) != id)
            s = err_set(
                err, E_INPUT,
                "%s: '%s' is not that token of %s; save the tokenizer with transformers, which "
                "puts added tokens into tokenizer.json or tokenizer_config.json",
                file, token, path);
    }
    json_free(list);
    free(file);
    return s;
}

static Status load_file(Tokenizer **out, const char *path, const char *dir, Err *err)
{
    TokenizerConfig c = {0};
    FileMap f;
    Status s = tokenizer_config_load(&c, dir, err);
    if (s == OK) s = file_map(&f, path, err);
    if (s == OK) {
        s = assemble(out, &c, path, f.data, f.len, err);
        file_unmap(&f);
    }
    if (s == OK && (s = check_added_file(*out, path, dir, err)) != OK) {
        tokenizer_free(*out);
        *out = NULL;
    }
    tokenizer_config_clear(&c);
    return s;
}

static Status find_file(char **file, char **dir, const char *path, Err *err)
{
    if (!path_is_dir(path)) {
        *dir = xstrndup(path, (size_t)(path_base(path) - path));
        if (!**dir) {
            free(*dir);
            *dir = xstrdup(".");
        }
        *file = xstrdup(path);
        return OK;
    }
    static const char *const names[] = {"tokenizer.json", "tokenizer.model"};
    for (int i = 0; i < 2; i++) {
        *file = path_join(path, names[i]);
        if (path_exists(*file)) {
            *dir = xstrdup(path);
            return OK;
        }
        free(*file);
    }
    return err_set(err, E_INPUT,
                   "%s: no tokenizer here: neither tokenizer.json nor tokenizer.model", path);
}

Status tokenizer_load(Tokenizer **out, const char *path, Err *err)
{
    char *file = NULL, *dir = NULL;
    TRY(find_file(&file, &dir, path, err));
    Status s = load_file(out, file, dir, err);
    free(file);
    free(dir);
    return s;
}

void tokenizer_free(Tokenizer *t)
{
    if (!t) return;
    free(t->kind);
    free(t->chat_template);
    vocab_clear(&t->vocab);
    added_clear(&t->added);
    normalizer_clear(&t->norm);
    pretok_clear(&t->pre);
    bpe_clear(&t->bpe);
    decoder_clear(&t->dec);
    free(t);
}

int tokenizer_vocab_size(const Tokenizer *t)
{
    return t->vocab.n;
}

uint64_t tokenizer_hash(const Tokenizer *t)
{
    return t->hash;
}

const char *tokenizer_kind(const Tokenizer *t)
{
    return t->kind;
}

int tokenizer_bos(const Tokenizer *t)
{
    return t->bos;
}

int tokenizer_eos(const Tokenizer *t)
{
    return t->eos;
}

int tokenizer_pad(const Tokenizer *t)
{
    return t->pad;
}

bool tokenizer_adds_bos(const Tokenizer *t)
{
    return t->adds_bos;
}

bool tokenizer_adds_eos(const Tokenizer *t)
{
    return t->adds_eos;
}

int token_id(const Tokenizer *t, const char *content, size_t n)
{
    const AddedToken *a = added_find(&t->added, content, n);
    if (a) return a->id;
    int id = vocab_find(&t->vocab, content, n);
    /* SentencePiece's byte pieces are not to be found in a text, but they have names. */
    for (int i = 0; id < 0 && t->dec.kind == DECODE_SPM && i < t->vocab.n; i++) {
        size_t len;
        const char *s = vocab_piece(&t->vocab, i, &len);
        if (s && len == n && memcmp(s, content, n) == 0) id = i;
    }
    return id;
}

int tokenizer_id(const Tokenizer *t, const char *content)
{
    return token_id(t, content, strlen(content));
}

const char *tokenizer_piece(const Tokenizer *t, int id)
{
    return vocab_piece(&t->vocab, id, NULL);
}

bool tokenizer_is_special(const Tokenizer *t, int id)
{
    return added_is_special(&t->added, id);
}

const char *tokenizer_chat_template(const Tokenizer *t)
{
    return t->chat_template;
}
