/* Tokenizer and data sets of a run. */
#include "base/fs.h"
#include "base/hash.h"
#include "base/str.h"
#include "trainer/session.h"

#include <stdlib.h>

static bool all_tokens(const DataSource *s, int n)
{
    for (int i = 0; i < n; i++)
        if (s[i].format != DATA_TOKENS) return false;
    return true;
}

static bool has_tokenizer(const char *dir)
{
    static const char *const names[] = {"tokenizer.json", "tokenizer.model"};
    for (int i = 0; i < 2; i++) {
        char *path = path_join(dir, names[i]);
        bool there = path_exists(path);
        free(path);
        if (there) return true;
    }
    return false;
}

static Status open_tokenizer(Session *s, Problems *p)
{
    TrainConfig *c = s->cfg;
    const char *path = c->tokenizer ? c->tokenizer : c->model_path;
    bool tokens =
        all_tokens(c->data.train, c->data.n_train) && all_tokens(c->data.eval, c->data.n_eval);
    if (tokens && !c->tokenizer && (!path || !has_tokenizer(path))) return OK;
    if (!path) {
        config_problem(c, p, "tokenizer", "missing; a preset brings none: name a folder or file");
        return E_INPUT;
    }
    Err err = {0};
    Status status = tokenizer_load(&s->tokenizer, path, &err);
    if (status != OK)
        config_problem(c, p, c->tokenizer ? "tokenizer" : "model.path", "%s", err.line);
    return status;
}

static uint64_t hash_documents(const Dataset *d)
{
    uint64_t h = 0;
    for (int64_t i = 0; i < dataset_size(d); i++) {
        Document doc = dataset_document(d, i);
        h = hash64(doc.ids, (size_t)doc.n * sizeof *doc.ids, h);
        h = hash64(doc.labels, (size_t)doc.n * sizeof *doc.labels, h);
    }
    return h;
}

static Status open_data(Session *s, Problems *problems)
{
    TrainConfig *cfg = s->cfg;
    TRY(open_tokenizer(s, problems));
    Pool *pool = pool_new((int)cfg->threads);
    Status status =
        dataset_open(&s->train, &s->eval, &cfg->data, s->tokenizer, pool, s->log, problems);
    pool_free(pool);
    if (status == OK) s->data_hash = hash_documents(s->train);
    if (status == OK && s->eval) s->eval_hash = hash_documents(s->eval);
    return status;
}

/* The first rank of a host fills the cache, the others find it filled. */
static Status open_data_in_turn(Session *s, Problems *problems)
{
    bool first = s->hosts->local_rank == 0;
    Status status = first ? open_data(s, problems) : OK;
    comm_barrier(s->hosts);
    return first ? status : open_data(s, problems);
}

Status session_open_data(Session *s, TrainConfig *cfg, Log *log, Problems *problems)
{
    s->cfg = cfg;
    s->log = log;
    if (!s->hosts) session_alone(s);
    Status status = open_data_in_turn(s, problems);
    TRY(session_agree(s, status, problems));
    return session_compare(s, problems);
}
