/* Prompts in pieces, then one token after the other. */
#include "trainer/bench_decode.h"

#include "base/advice.h"
#include "base/clock.h"
#include "base/str.h"
#include "infer/feed.h"
#include "infer/token_pass.h"
#include "model/hf_files.h"
#include "tensor/region.h"
#include "trainer/bench.h"
#include "trainer/plan.h"

#include <math.h>
#include <stdlib.h>

enum { WARM_UP = 4, PIECE = 2048 }; /* passes; tokens of prompts that are read at once */
static const double WARM_SECONDS = 0.5;
static const uint64_t SEED = 1;

typedef struct Bench {
    const DecodeBenchOpts *opts;
    DecodeBenchResult *out;
    Device dev;
    Llama model;
    LoraSet lora;
    KvCache kv;
    TokenPass pass;
    bool has_model, has_lora;
    bool plans; /* computes nothing */
} Bench;

static Status open_model(Bench *b, Err *err)
{
    const DecodeBenchOpts *o = b->opts;
    int64_t longest = o->prompt + o->new_tokens + WARM_UP;
    llama_init(&b->model, &o->shape, &b->dev, longest);
    b->has_model = true;
    llama_quantize(&b->model, &o->quant);
    if (o->lora && lora_attach(&b->lora, &b->model, o->lora, err) != OK)
        return err_wrap(err, E_INPUT, "--%s", err->key);
    b->has_lora = o->lora;
    llama_alloc(&b->model);
    model_init_random(&b->model, SEED);
    if (b->has_lora) lora_init_weights(&b->lora, &b->dev, SEED);
    kv_cache_init(&b->kv, &b->model, o->batch, longest);
    token_pass_init(&b->pass, &b->model, &b->kv,
                    &(TokenPassOpts){.greedy = true, .no_graph = o->no_graph});
    return OK;
}

static void close_model(Bench *b)
{
    token_pass_clear(&b->pass);
    if (b->kv.k) kv_cache_clear(&b->kv);
    if (b->has_lora) lora_detach(&b->lora, &b->model);
    if (b->has_model) llama_clear(&b->model);
    if (b->dev.backend) device_close(&b->dev);
}

/* The next `each` tokens of every sequence's prompt. */
static void read_piece(Bench *b, Feed *f, int64_t from, int64_t each)
{
    int64_t batch = b->opts->batch, n = batch * each;
    int32_t *ids = xmalloc((size_t)n * sizeof *ids), *at = xmalloc((size_t)n * sizeof *at);
    int32_t *cu = xmalloc((size_t)(batch + 1) * sizeof *cu),
            *n_new = xmalloc((size_t)batch * sizeof *n_new);
    for (int64_t i = 0; i < n; i++) {
        ids[i] = (int32_t)rng_below(SEED, (uint64_t)(from * batch + i),
                                    (uint64_t)b->opts->shape.vocab_size);
        at[i] = (int32_t)(from + i % each);
    }
    for (int64_t i = 0; i <= batch; i++)
        cu[i] = (int32_t)(i * each);
    for (int64_t i = 0; i < batch; i++)
        n_new[i] = (int32_t)each;
    feed_begin(f, n, ids, at, (int)batch, cu, each, &b->kv);
    llama_forward(&f->ctx, &b->model, &f->batch);
    feed_end(f);
    kv_cache_advance(&b->kv, n_new);
    free(ids), free(at), free(cu), free(n_new);
}

static void read_prompts(Bench *b)
{
    const DecodeBenchOpts *o = b->opts;
    int64_t most = PIECE / o->batch > 0 ? PIECE / o->batch : 1;
    Feed feed;
    feed_init(&feed, &b->dev);
    double began = seconds_monotonic();
    for (int64_t from = 0; from < o->prompt; from += most)
        read_piece(b, &feed, from, o->prompt - from < most ? o->prompt - from : most);
    b->dev.backend->sync(&b->dev);
    b->out->prompt_s = seconds_monotonic() - began;
    feed_clear(&feed);
}

/* As the host reads tokens one after the other, in seconds. */
typedef struct Intervals {
    double all, least, most;
} Intervals;

/* n tokens of each sequence as generation has them: the host reads what was chosen while the next passes run. */
static Intervals write_n(Bench *b, int32_t *ids, int64_t n)
{
    const int64_t most = b->dev.backend->replay && !b->opts->no_graph ? TOKEN_PASSES_AHEAD : 0;
    Intervals t = {.least = INFINITY};
    const double first = seconds_monotonic();
    for (int64_t i = 0; i < n; i++) {
        const double before = t.all;
        token_pass_run(&b->pass, ids);
        token_pass_read_best(&b->pass, ids, n - 1 - i < most ? n - 1 - i : most);
        t.all = seconds_monotonic() - first;
        const double one = t.all - before;
        t.least = one < t.least ? one : t.least;
        t.most = one > t.most ? one : t.most;
    }
    return t;
}

/* First what a first use chooses and records, then the same tokens as are timed, for a while. */
static void warm_up(Bench *b, int32_t *ids)
{
    const double began = seconds_monotonic();
    write_n(b, ids, WARM_UP);
    while (!b->plans && seconds_monotonic() - began < WARM_SECONDS) {
        write_n(b, ids, b->opts->new_tokens);
        kv_cache_retreat(&b->kv, b->opts->new_tokens);
    }
}

static void write_tokens(Bench *b)
{
    int32_t *ids = xcalloc((size_t)b->opts->batch, sizeof *ids);
    warm_up(b, ids);
    const Intervals t = write_n(b, ids, b->opts->new_tokens);
    /* passes begin before the host has read the last one's token, so that single intervals tell when the host woke up */
    b->out->token_s = t.all / (double)b->opts->new_tokens;
    b->out->token_min_s = t.least;
    b->out->token_max_s = t.most;
    b->out->n_recorded = b->pass.n_recorded;
    b->out->n_replayed = b->pass.n_replayed;
    free(ids);
}

static double bytes_of(const Param *p)
{
    return (double)(p->t.quant ? tensor_bytes(&p->t.quant->packed) : tensor_bytes(&p->t));
}

/* Every parameter once, but of an embedding that is not the head, too, a row a sequence. */
static void count_bytes(Bench *b)
{
    const Llama *m = &b->model;
    const DecodeBenchOpts *o = b->opts;
    const LlamaConfig *c = &o->shape;
    double past = (double)o->prompt + WARM_UP + 0.5 * (double)o->new_tokens, sum = 0;
    for (int i = 0; i < m->params.n; i++)
        if (m->params.items[i] != &m->embed || m->tied) sum += bytes_of(m->params.items[i]);
    b->out->weight_bytes = sum;
    b->out->cache_bytes = 2 * past *
                          (double)(o->batch * c->n_layers * c->n_kv_heads * c->head_dim) *
                          (double)dtype_bytes(b->dev.compute);
}

/* The same on a device that computes nothing: bytes of the region; 0: err says what is wrong. */
static size_t plan(Bench *b, const Device *real, Err *err)
{
    PlanTarget target = plan_target_of(real);
    DecodeBenchResult ignored;
    Bench p = {.opts = b->opts, .out = &ignored, .plans = true};
    size_t need = 0;
    Status s = device_open(&p.dev, backend_find("plan"), &(DeviceOpts){.target = &target},
                           b->opts->compute, err);
    if (s == OK) s = open_model(&p, err);
    if (s == OK) {
        read_prompts(&p);
        write_tokens(&p);
        need = region_extent(p.dev.region);
        b->out->planned_peak = p.dev.mem.peak_total;
    }
    close_model(&p);
    return need;
}

static const char *when_full(char *out, const DecodeBenchOpts *o)
{
    const Advice all[] = {
        {o->batch > 1, "a smaller --batch"},    {o->prompt > 1, "a smaller --prompt"},
        {o->new_tokens > 1, "a smaller --new"}, {o->quant.type == QUANT_NONE, "--quantize nf4"},
        {true, "a device with more memory"},
    };
    return ADVICE_TEXT(out, all);
}

static Status run(Bench *b, Err *err)
{
    char settings[ADVICE_MAX];
    device_when_full(&b->dev, when_full(settings, b->opts));
    b->out->copy_bandwidth = bench_copy_bandwidth(&b->dev);
    size_t need = plan(b, &b->dev, err);
    if (need == 0) return E_INPUT;
    const double gib = 1 << 30;
    if (need > b->dev.region_bytes)
        return err_set(err, E_INPUT, "decoding needs %.2f GiB and there are %.2f; take %s",
                       (double)need / gib, (double)b->dev.region_bytes / gib, settings);
    TRY(open_model(b, err));
    device_reset_peak(&b->dev);
    read_prompts(b);
    write_tokens(b);
    count_bytes(b);
    b->out->peak = b->dev.mem.peak_total;
    b->dev.backend->info(&b->dev, &b->out->info);
    return OK;
}

Status bench_decode(DecodeBenchResult *out, const DecodeBenchOpts *opts, Err *err)
{
    *out = (DecodeBenchResult){0};
    Bench b = {.opts = opts, .out = out};
    const Backend *backend = backend_find(opts->device);
    if (!backend || str_eq(opts->device, "plan"))
        return err_set(err, E_INPUT, "--device: '%s' is not built in; there is %s", opts->device,
                       backend_names());
    DeviceOpts device = {.threads = opts->threads,
                         .region_bytes = (size_t)(opts->memory_gib * 1024 * 1024 * 1024),
                         .no_early = opts->no_early};
    Status s = device_open(&b.dev, backend, &device, opts->compute, err);
    s = s == OK ? run(&b, err) : err_wrap(err, s, "--device");
    close_model(&b);
    return s;
}
