/* What is decided before the first token: defaults, limits, which ids end a text. */
#include "infer/generate.h"

#include "base/fs.h"
#include "base/json.h"

#include <stdlib.h>

GenerateOpts generate_defaults(void)
{
    return (GenerateOpts){.sampler = sampler_defaults(), .max_new_tokens = 256, .batch = 8};
}

const char *finish_name(FinishReason r)
{
    static const char *const names[] = {"eos", "stop", "length", "context"};
    return names[r];
}

void generation_clear(Generation *g)
{
    free(g->ids);
    free(g->text);
    *g = (Generation){0};
}

int64_t generate_context(const Llama *m)
{
    int64_t n = m->cfg.max_position_embeddings;
    if (m->rope.shape[0] < n) n = m->rope.shape[0];
    /* A token sees itself and the window's length - 1 before it. */
    if (m->cfg.sliding_window > 0 && m->cfg.sliding_window < n) n = m->cfg.sliding_window;
    return n;
}

void generate_add_eos(GenerateOpts *o, int id)
{
    int max = (int)(sizeof o->eos_ids / sizeof *o->eos_ids);
    if (id < 0 || o->n_eos == max) return;
    for (int i = 0; i < o->n_eos; i++)
        if (o->eos_ids[i] == id) return;
    o->eos_ids[o->n_eos++] = id;
}

enum {
    MOST_LISTED = sizeof((GenerateOpts *)0)->eos_ids / sizeof(int) - 4
}; /* the tokenizer's and the chat's follow */

/* eos_token_id: a number, a list of numbers, or null. */
static Status add_listed(GenerateOpts *o, const Json *j, const char *path, int64_t vocab, Err *err)
{
    size_t n = json_kind(j) == JK_ARRAY ? json_size(j) : 1;
    for (size_t i = 0; i < n; i++) {
        const Json *item = json_kind(j) == JK_ARRAY ? json_at(j, i) : j;
        int64_t id;
        if (!json_int(item, &id))
            return err_set(err, E_INPUT, "%s: eos_token_id: needs a number or a list, got %s", path,
                           json_kind_name(item));
        if (id < 0 || id >= vocab)
            return err_set(err, E_INPUT, "%s: eos_token_id: %lld is outside the vocabulary of %lld",
                           path, (long long)id, (long long)vocab);
        if (o->n_eos >= MOST_LISTED)
            return err_set(err, E_INPUT, "%s: eos_token_id: more than %d end tokens", path,
                           (int)MOST_LISTED);
        generate_add_eos(o, (int)id);
    }
    return OK;
}

Status generate_load_eos(GenerateOpts *o, const char *dir, const LlamaConfig *cfg,
                         const Tokenizer *t, Err *err)
{
    char *path = path_join(dir, "generation_config.json");
    Json *j = NULL;
    Status s = path_exists(path) ? json_parse_file(&j, path, err) : OK;
    if (s == OK && j && json_kind(j) != JK_OBJECT)
        s = err_set(err, E_INPUT, "%s: must hold a JSON object, found %s", path, json_kind_name(j));
    const Json *listed = json_get(j, "eos_token_id");
    if (s == OK && listed && json_kind(listed) != JK_NULL)
        s = add_listed(o, listed, path, cfg->vocab_size, err);
    else
        for (int i = 0; s == OK && i < cfg->n_eos; i++)
            generate_add_eos(o, cfg->eos_ids[i]);
    if (s == OK && t) generate_add_eos(o, tokenizer_eos(t));
    json_free(j);
    free(path);
    return s;
}
