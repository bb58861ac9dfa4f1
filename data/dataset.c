/* Opens sources, divides training from validation, counts. */
#include "data/dataset.h"

#include "base/rng.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* --- stores -------------------------------------------------------------------------------- */

static void stores_release(Stores *s)
{
    if (!s || --s->refs > 0) return;
    for (int i = 0; i < s->n; i++)
        store_clear(&s->items[i]);
    free(s->items);
    free(s->weights);
    free(s);
}

/* Opens all sources, so that the errors of all are told. */
static Stores *stores_open(const DataSource *sources, int n, const DataOpts *opts,
                           const Tokenizer *t, Pool *pool, Log *log, Problems *problems)
{
    Stores *s = xcalloc(1, sizeof *s);
    s->refs = 1;
    s->n = n;
    s->items = xcalloc((size_t)n, sizeof *s->items);
    s->weights = xcalloc((size_t)n, sizeof *s->weights);
    bool bad = false;
    for (int i = 0; i < n; i++) {
        s->weights[i] = sources[i].weight;
        bad |= store_open(&s->items[i], &sources[i], opts, t, pool, log, problems) != OK;
    }
    if (!bad) return s;
    stores_release(s);
    return NULL;
}

/* --- division ------------------------------------------------------------------------------ */

typedef struct RowKey {
    uint64_t key;
    int64_t row; /* over all stores */
} RowKey;

static int compare_keys(const void *a, const void *b)
{
    const RowKey *x = a, *y = b;
    if (x->key != y->key) return x->key < y->key ? -1 : 1;
    return x->row < y->row ? -1 : x->row > y->row;
}

/* Rows that have documents, with a key that depends on the row's number alone. */
static RowKey *list_rows(const Stores *s, int64_t *n)
{
    RowKey *keys = NULL;
    int64_t cap = 0, base = 0;
    *n = 0;
    for (int k = 0; k < s->n; k++) {
        const TokenStore *store = &s->items[k];
        for (int64_t i = 0; i < store->n_docs; i++) {
            if (i > 0 && store->docs[i].row == store->docs[i - 1].row) continue;
            if (*n == cap) {
                cap = cap ? 2 * cap : 1024;
                keys = xrealloc(keys, (size_t)cap * sizeof *keys);
            }
            int64_t row = base + store->docs[i].row;
            keys[(*n)++] = (RowKey){rng_mix(0x76616C6964617465ull, (uint64_t)row), row};
        }
        base += store->stats.rows;
    }
    return keys;
}

/* Marks the rows that go to validation; NULL: none. */
static bool *choose_eval(const Stores *s, const DataOpts *o, Problems *problems)
{
    if (o->eval_count == 0 && o->eval_share == 0) return NULL;
    int64_t n, all = 0;
    RowKey *keys = list_rows(s, &n);
    int64_t want = o->eval_count > 0 ? o->eval_count : (int64_t)llround(o->eval_share * (double)n);
    if (want < 1) want = 1;
    bool *chosen = NULL;
    if (want >= n) {
        problems_add(problems,
                     "%s: takes %lld of %lld rows and leaves none to train on; ask for fewer",
                     o->eval_count > 0 ? "data.eval.count" : "data.eval.share", (long long)want,
                     (long long)n);
    } else {
        for (int k = 0; k < s->n; k++)
            all += s->items[k].stats.rows;
        chosen = xcalloc((size_t)all, sizeof *chosen);
        qsort(keys, (size_t)n, sizeof *keys, compare_keys);
        for (int64_t i = 0; i < want; i++)
            chosen[keys[i].row] = true;
    }
    free(keys);
    return chosen;
}

/* The documents of the rows with chosen[row] == want; chosen NULL: of all rows. */
static Dataset *dataset_new(Stores *s, const bool *chosen, bool want, bool weighted,
                            const Tokenizer *t)
{
    Dataset *d = xcalloc(1, sizeof *d);
    int pad = -1;
    if (t) pad = tokenizer_pad(t) >= 0 ? tokenizer_pad(t) : tokenizer_eos(t);
    d->pad = pad >= 0 ? pad : 0;
    d->stores = s;
    s->refs++;
    d->weighted = weighted;
    int64_t n = 0, base = 0;
    for (int k = 0; k < s->n; k++)
        n += s->items[k].n_docs;
    d->docs = xmalloc((size_t)n * sizeof *d->docs);
    for (int k = 0; k < s->n; k++) {
        for (int64_t i = 0; i < s->items[k].n_docs; i++)
            if (!chosen || chosen[base + s->items[k].docs[i].row] == want)
                d->docs[d->n_docs++] = (DocRef){k, i};
        base += s->items[k].stats.rows;
    }
    return d;
}

/* --- report -------------------------------------------------------------------------------- */

static int compare_hashes(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static uint64_t *sorted_hashes(const Dataset *d)
{
    uint64_t *h = xmalloc((size_t)d->n_docs * sizeof *h);
    for (int64_t i = 0; i < d->n_docs; i++)
        h[i] = dataset_entry(d, i)->hash;
    qsort(h, (size_t)d->n_docs, sizeof *h, compare_hashes);
    return h;
}

static void count_documents(Dataset *d)
{
    DataReport *r = &d->report;
    int32_t last_store = -1;
    int64_t last_row = -1;
    for (int64_t i = 0; i < d->n_docs; i++) {
        const DocEntry *e = dataset_entry(d, i);
        bool new_row = d->docs[i].store != last_store || e->row != last_row;
        last_store = d->docs[i].store;
        last_row = e->row;
        r->rows += new_row;
        r->tokens += e->n;
        r->trained_tokens += e->n_trained;
        if (e->n > r->longest) r->longest = e->n;
        r->dropped_tokens += e->dropped;
        r->truncated += e->dropped > 0 && e->piece == 0;
        r->split += new_row && e->piece > 0;
    }
    uint64_t *h = sorted_hashes(d);
    for (int64_t i = 1; i < d->n_docs; i++)
        r->duplicates += h[i] == h[i - 1];
    free(h);
}

static RowPlace place_of(const TokenStore *s, const RowAt *at)
{
    return (RowPlace){s->files[at->file], at->line, at->number};
}

/* What was left out belongs to no document: it is told with the training set. */
static void count_left_out(Dataset *d)
{
    DataReport *r = &d->report;
    r->from_cache = d->stores->n > 0;
    for (int k = 0; k < d->stores->n; k++) {
        const TokenStore *s = &d->stores->items[k];
        r->rows += s->stats.untrained;
        if (r->untrained == 0) r->first_untrained = place_of(s, &s->stats.first_untrained);
        r->untrained += s->stats.untrained;
        r->empty_answers += s->stats.empty_answers;
        if (r->spelled_tokens == 0) r->first_spelled = place_of(s, &s->stats.first_spelled);
        r->spelled_tokens += s->stats.spelled;
        r->from_cache = r->from_cache && s->from_cache;
    }
}

static void count_packing(Dataset *d, const DataOpts *opts)
{
    DataReport *r = &d->report;
    Loader *l = loader_new(d, opts, 0, 1);
    r->packed_rows = loader_rows(l, 0);
    StepInfo most = loader_max(l, 0, 1);
    r->max_documents = most.n_docs;
    int64_t tokens = 0;
    for (int64_t i = 0; i < r->packed_rows; i++)
        tokens += loader_step(l, 0, i).n_tokens;
    if (opts->packing == PACK_CONCAT) r->remainder_tokens = loader_tokens(l, 0) - tokens;
    if (r->packed_rows > 0)
        r->fill = (double)tokens / ((double)r->packed_rows * (double)opts->max_length);
    loader_free(l);
}

static void make_report(Dataset *d, const DataOpts *opts, bool left_out)
{
    count_documents(d);
    if (left_out) count_left_out(d);
    count_packing(d, opts);
}

static void compare_sets(Dataset *train, const Dataset *eval, Log *log)
{
    uint64_t *h = sorted_hashes(eval);
    for (int64_t i = 0; i < train->n_docs; i++)
        train->report.eval_duplicates +=
            bsearch(&dataset_entry(train, i)->hash, h, (size_t)eval->n_docs, sizeof *h,
                    compare_hashes) != NULL;
    free(h);
    if (train->report.eval_duplicates > 0)
        log_warn(log, "%lld training documents are equal to validation documents",
                 (long long)train->report.eval_duplicates);
}

static void warn_report(const Dataset *d, const DataOpts *opts, Log *log)
{
    const DataReport *r = &d->report;
    if (r->untrained > 0) {
        char *first = row_name(&r->first_untrained);
        log_warn(log, "%lld rows train on nothing and are left out (the first: %s)",
                 (long long)r->untrained, first);
        free(first);
    }
    if (r->split > 0 && r->truncated == 0 && r->dropped_tokens > 0)
        log_warn(
            log,
            "%lld tokens of prompts are dropped: behind the first piece of a row that is split "
            "its answer goes on without them",
            (long long)r->dropped_tokens);
    if (r->truncated > 0)
        log_warn(log, "%lld documents are cut at %lld tokens (%lld tokens dropped)",
                 (long long)r->truncated, (long long)opts->max_length,
                 (long long)r->dropped_tokens);
    if (r->spelled_tokens > 0) {
        char *first = row_name(&r->first_spelled);
        log_warn(log,
                 "%lld rows spell special tokens such as <s> or <|eot_id|> in their text (the "
                 "first: %s): they stay plain text; rendered chats belong into the format "
                 "messages, with a template",
                 (long long)r->spelled_tokens, first);
        free(first);
    }
    if (r->packed_rows == 0)
        log_warn(log,
                 "the documents do not fill one row of %lld tokens: there is nothing to compute",
                 (long long)opts->max_length);
}

/* --- opening ------------------------------------------------------------------------------- */

static void check_opts(const DataOpts *o, const DataSource *sources, int n, bool weighted,
                       Problems *p)
{
    if (o->max_length < 2 || o->max_length > INT32_MAX / 2)
        problems_add(p, "max_length: must be from 2 to %d, is %lld", INT32_MAX / 2,
                     (long long)o->max_length);
    if (n == 0) problems_add(p, "no data set is given");
    for (int i = 0; i < n && weighted; i++)
        if (!(sources[i].weight > 0 && sources[i].weight <= 1000))
            problems_add(p, "%s: weight: must be above 0 and at most 1000, is %g", sources[i].path,
                         sources[i].weight);
}

static void check_eval(const DataOpts *o, Problems *p)
{
    if ((o->n_eval > 0) + (o->eval_share != 0) + (o->eval_count != 0) > 1)
        problems_add(
            p, "validation is asked for in more than one way: give a file, a count or a share");
    if (!(o->eval_share >= 0 && o->eval_share < 1))
        problems_add(p, "the share for validation must be from 0 to below 1, is %g", o->eval_share);
    if (o->eval_count < 0)
        problems_add(p, "the count for validation must not be negative, is %lld",
                     (long long)o->eval_count);
}

static bool any(const Problems *p, int before)
{
    return p->n + p->n_dropped > before;
}

static void check_some(const Dataset *d, const char *what, Problems *p)
{
    if (d->n_docs == 0) problems_add(p, "the %s set has no row with a trained token", what);
}

/* Whoever trains or evaluates must see a row in the first epoch.  path: the first of its files. */
static void check_rows(const Dataset *d, const char *what, const char *path, const DataOpts *opts,
                       Problems *p)
{
    if (d->report.packed_rows > 0) return;
    if (opts->packing != PACK_CONCAT)
        problems_add(
            p,
            "%s: weight: the weights take no row of the %s set into the first epoch; raise "
            "them",
            path, what);
    else
        problems_add(p,
                     "%s: the %s set has %lld tokens and does not fill one row of %lld; give more "
                     "rows, lower data.max_length, or set data.packing: best_fit",
                     path, what, (long long)d->report.tokens, (long long)opts->max_length);
}

Status dataset_open(Dataset **train, Dataset **eval, const DataOpts *opts, const Tokenizer *t,
                    Pool *pool, Log *log, Problems *problems)
{
    *train = *eval = NULL;
    int before = problems->n + problems->n_dropped;
    check_opts(opts, opts->train, opts->n_train, true, problems);
    check_eval(opts, problems);
    if (any(problems, before)) return E_INPUT;
    Stores *s = stores_open(opts->train, opts->n_train, opts, t, pool, log, problems);
    Stores *e = NULL;
    if (opts->n_eval > 0) e = stores_open(opts->eval, opts->n_eval, opts, t, pool, log, problems);
    Dataset *a = NULL, *b = NULL;
    if (!any(problems, before)) {
        bool *chosen = choose_eval(s, opts, problems);
        a = dataset_new(s, chosen, false, true, t);
        if (chosen) b = dataset_new(s, chosen, true, false, t);
        if (e) b = dataset_new(e, NULL, false, false, t);
        free(chosen);
        check_some(a, "training", problems);
        if (b) check_some(b, "validation", problems);
    }
    stores_release(s);
    stores_release(e);
    if (!any(problems, before)) {
        make_report(a, opts, true);
        if (b) make_report(b, opts, e != NULL);
        const DataSource *own = opts->n_eval > 0 ? opts->eval : opts->train;
        check_rows(a, "training", opts->train[0].path, opts, problems);
        if (b) check_rows(b, "validation", own[0].path, opts, problems);
    }
    if (any(problems, before)) {
        dataset_free(a);
        dataset_free(b);
        return E_INPUT;
    }
    warn_report(a, opts, log);
    if (b) compare_sets(a, b, log);
    *train = a;
    *eval = b;
    return OK;
}

Status dataset_open_sources(Dataset **out, const DataSource *sources, int n, const DataOpts *opts,
                            const Tokenizer *t, Pool *pool, Log *log, Problems *problems)
{
    *out = NULL;
    int before = problems->n + problems->n_dropped;
    check_opts(opts, sources, n, false, problems);
    if (any(problems, before)) return E_INPUT;
    Stores *s = stores_open(sources, n, opts, t, pool, log, problems);
    if (!s) return E_INPUT;
    Dataset *d = dataset_new(s, NULL, false, false, t);
    stores_release(s);
    check_some(d, "data", problems);
    if (any(problems, before)) {
        dataset_free(d);
        return E_INPUT;
    }
    make_report(d, opts, true);
    warn_report(d, opts, log);
    *out = d;
    return OK;
}

void dataset_free(Dataset *d)
{
    if (!d) return;
    stores_release(d->stores);
    free(d->docs);
    free(d);
}

const DataReport *dataset_report(const Dataset *d)
{
    return &d->report;
}

int64_t dataset_size(const Dataset *d)
{
    return d->n_docs;
}

Document dataset_document(const Dataset *d, int64_t i)
{
    ASSERT(i >= 0 && i < d->n_docs, "document %lld of %lld", (long long)i, (long long)d->n_docs);
    const TokenStore *s = &d->stores->items[d->docs[i].store];
    const DocEntry *e = &s->docs[d->docs[i].index];
    int64_t base = 0; /* ids count through all stores, whoever took the documents between */
    for (int32_t k = 0; k < d->docs[i].store; k++)
        base += d->stores->items[k].n_docs;
    return (Document){.ids = s->ids + e->start,
                      .labels = s->labels + e->start,
                      .n = e->n,
                      .id = base + d->docs[i].index,
                      .at = place_of(s, &e->at)};
}
