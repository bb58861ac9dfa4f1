/* The files beside a tokenizer that say which tokens are special and what goes around a text. */
#include "base/fs.h"
#include "data/tokenizer_json.h"

#include <stdlib.h>
#include <string.h>

/* A token named by a string, by an object with `content`, or null. */
static Status token_name(char **out, const Json *file, const char *key, const char *path, Err *err)
{
    const Json *j = json_get(file, key);
    if (json_is_null(j)) return OK;
    const char *s;
    size_t n;
    if (!json_str(j, &s, &n) && !json_str(json_get(j, "content"), &s, &n))
        return err_set(err, E_INPUT, "%s: %s: must be a string or an object with content, found %s",
                       path, key, json_kind_name(j));
    free(*out);
    *out = n ? xstrndup(s, n) : NULL;
    return OK;
}

static Status names(TokenizerConfig *c, const Json *file, const char *path, Err *err)
{
    TRY(token_name(&c->bos, file, "bos_token", path, err));
    TRY(token_name(&c->eos, file, "eos_token", path, err));
    TRY(token_name(&c->pad, file, "pad_token", path, err));
    return token_name(&c->unk, file, "unk_token", path, err);
}

static Status flag(bool *out, const Json *j, const char *key, bool absent, const char *where,
                   Err *err)
{
    const Json *v = json_get(j, key);
    *out = absent;
    if (json_is_null(v) || json_bool(v, out)) return OK;
    return err_set(err, E_INPUT, "%s.%s: must be true or false, found %s", where, key,
                   json_kind_name(v));
}

Status added_token_parse(AddedToken *out, const Json *j, const char *where, Err *err)
{
    const char *content;
    *out = (AddedToken){.id = -1};
    if (!json_str(json_get(j, "content"), &content, &out->n))
        return err_set(err, E_INPUT, "%s: must have content, a string", where);
    out->content = (char *)(uintptr_t)content;
    TRY(flag(&out->special, j, "special", false, where, err));
    TRY(flag(&out->normalized, j, "normalized", !out->special, where, err));
    TRY(flag(&out->single_word, j, "single_word", false, where, err));
    TRY(flag(&out->lstrip, j, "lstrip", false, where, err));
    return flag(&out->rstrip, j, "rstrip", false, where, err);
}

typedef struct IdOrder {
    int id;
    AddedToken token;
} IdOrder;

static int by_id(const void *a, const void *b)
{
    int x = ((const IdOrder *)a)->id, y = ((const IdOrder *)b)->id;
    return (x > y) - (x < y);
}

/* {"128000": {content, ...}, ...} in the order of the ids. */
static Status added_tokens_decoder(TokenizerConfig *c, const Json *file, Err *err)
{
    const Json *list = json_get(file, "added_tokens_decoder");
    if (json_is_null(list)) return OK;
    if (!json_is(list, JK_OBJECT))
        return err_set(err, E_INPUT, "%s: added_tokens_decoder: must be an object, found %s",
                       c->path, json_kind_name(list));
    IdOrder *tokens = xcalloc(json_size(list), sizeof *tokens);
    size_t n = 0;
    Status s = OK;
    for (void *it = json_first(list); it && s == OK; it = json_next(list, it)) {
        const char *key = json_iter_key(it);
        char *end;
        long id = strtol(key, &end, 10);
        if (*end || end == key || id < 0 || id > VOCAB_MAX_ID) {
            s = err_set(err, E_INPUT, "%s: added_tokens_decoder: '%s' is no token id", c->path,
                        key);
            break;
        }
        char *where = str_format("%s: added_tokens_decoder.%s", c->path, key);
        s = added_token_parse(&tokens[n].token, json_iter_value(it), where, err);
        free(where);
        tokens[n].id = tokens[n].token.id = (int)id;
        n += tokens[n].token.n > 0;
    }
    if (s == OK) {
        qsort(tokens, n, sizeof *tokens, by_id);
        for (size_t i = 0; i < n; i++)
            added_put(&c->added, &tokens[i].token);
    }
    free(tokens);
    return s;
}

/* A string, or a list of {name, template}, of which "default" is the one. */
static Status chat_template(TokenizerConfig *c, const Json *file, Err *err)
{
    const Json *j = json_get(file, "chat_template");
    const char *s;
    size_t n;
    if (json_is_null(j)) return OK;
    if (json_is(j, JK_ARRAY)) {
        const Json *chosen = NULL;
        for (size_t i = 0; i < json_size(j); i++) {
            const char *name;
            if (json_str(json_get(json_at(j, i), "name"), &name, NULL) && str_eq(name, "default"))
                chosen = json_get(json_at(j, i), "template");
        }
        if (!chosen) return OK; /* only templates for tools and the like */
        j = chosen;
    }
    if (!json_str(j, &s, &n))
        return err_set(err, E_INPUT, "%s: chat_template: must be a string or a list, found %s",
                       c->path, json_kind_name(j));
    c->chat_template = xstrndup(s, n);
    return OK;
}

/* add_bos_token and its like: -1 where nothing is said. */
static Status tristate(int *out, const Json *file, const char *key, const char *path, Err *err)
{
    const Json *j = json_get(file, key);
    bool v;
    if (json_is_null(j)) return OK;
    if (!json_bool(j, &v))
        return err_set(err, E_INPUT, "%s: %s: must be true or false, found %s", path, key,
                       json_kind_name(j));
    *out = v;
    return OK;
}

static Status read_config(TokenizerConfig *c, const Json *file, Err *err)
{
    if (!json_is(file, JK_OBJECT))
        return err_set(err, E_INPUT, "%s: must be a JSON object, found %s", c->path,
                       json_kind_name(file));
    TRY(names(c, file, c->path, err));
    TRY(tristate(&c->add_bos, file, "add_bos_token", c->path, err));
    TRY(tristate(&c->add_eos, file, "add_eos_token", c->path, err));
    int legacy = -1;
    TRY(tristate(&legacy, file, "legacy", c->path, err));
    c->not_legacy = legacy == 0;
    const char *class = "";
    json_str(json_get(file, "tokenizer_class"), &class, NULL);
    static const char *const llama[] = {"LlamaTokenizer", "LlamaTokenizerFast",
                                        "CodeLlamaTokenizer", "CodeLlamaTokenizerFast"};
    for (int i = 0; i < 4; i++)
        c->llama_class |= str_eq(class, llama[i]);
    TRY(added_tokens_decoder(c, file, err));
    return chat_template(c, file, err);
}

static Status read_special_map(TokenizerConfig *c, const Json *file, const char *path, Err *err)
{
    if (!json_is(file, JK_OBJECT))
        return err_set(err, E_INPUT, "%s: must be a JSON object, found %s", path,
                       json_kind_name(file));
    TokenizerConfig map = {0};
    Status s = names(&map, file, path, err);
    char **to[] = {&c->bos, &c->eos, &c->pad, &c->unk},
         *from[] = {map.bos, map.eos, map.pad, map.unk};
    for (int i = 0; i < 4; i++) {
        if (*to[i])
            free(from[i]);
        else
            *to[i] = from[i];
    }
    return s;
}

Status tokenizer_config_load(TokenizerConfig *c, const char *dir, Err *err)
{
    *c = (TokenizerConfig){.add_bos = -1, .add_eos = -1};
    c->path = path_join(dir, "tokenizer_config.json");
    char *map = path_join(dir, "special_tokens_map.json");
    char *jinja = path_join(dir, "chat_template.jinja");
    Status s = OK;
    Json *j = NULL;
    if (path_exists(c->path)) {
        s = json_parse_file(&j, c->path, err);
        if (s == OK) s = read_config(c, j, err);
        json_free(j);
        j = NULL;
    }
    if (s == OK && path_exists(map)) {
        s = json_parse_file(&j, map, err);
        if (s == OK) s = read_special_map(c, j, map, err);
        json_free(j);
    }
    if (s == OK && path_exists(jinja)) {
        size_t n;
        free(c->chat_template);
        c->chat_template = NULL;
        s = file_read(&c->chat_template, &n, jinja, err);
    }
    free(map);
    free(jinja);
    return s;
}

void tokenizer_config_clear(TokenizerConfig *c)
{
    free(c->path);
    free(c->bos);
    free(c->eos);
    free(c->pad);
    free(c->unk);
    free(c->chat_template);
    added_clear(&c->added);
    *c = (TokenizerConfig){0};
}
