/* The loop: admit, feed, pick, leave. */
#include "infer/generate.h"

#include "base/str.h"
#include "infer/feed.h"
#include "infer/stop.h"
#include "infer/token_pass.h"

#include <stdlib.h>
#include <string.h>

typedef struct Sequence {
    int64_t index;     /* of its prompt */
    int32_t *ids;      /* prompt, then what was generated */
    int64_t n, n_read; /* n_read of them are in the cache */
    DecodeStream stream;
    StrBuf text;
    size_t n_shown; /* bytes of text that the hook got */
    bool ended;     /* stays while passes of the others have begun */
} Sequence;

typedef struct Run {
    Llama *m;
    const Tokenizer *t;
    const GeneratePrompt *prompts;
    int64_t n_prompts, n_admitted;
    const GenerateOpts *opts;
    const GenerateHooks *hooks;
    Generation *out;
    StopStrings stops;
    int64_t context;

    Sequence *live; /* (batch); slot i of the cache is live[i] */
    int64_t n_live, batch;
    KvCache kv;
    Feed feed;
    TokenPass pass;
    bool greedy; /* the best logit decides: the device finds it, and logits stay there */
    bool early;  /* and begins the next passes before the host has seen it */
    Sampler sampler;
    float *logits; /* (batch, V); greedy: none */
    int32_t *best; /* (batch); greedy */
    /* one pass on the host */
    int32_t *ids, *positions; /* (pass_cap) */
    int64_t pass_cap;
    int32_t *cu, *n_new, *rows, *slots; /* (batch + 1) */
} Run;

static int64_t min(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static Status check_prompts(const Run *r, Err *err)
{
    const LlamaConfig *cfg = &r->m->cfg;
    for (int64_t i = 0; i < r->n_prompts; i++) {
        const GeneratePrompt *p = &r->prompts[i];
        long long no = (long long)i + 1;
        if (p->n == 0) return err_set(err, E_INPUT, "prompt %lld: has no token", no);
        if (p->n >= r->context)
            return err_set(
                err, E_INPUT,
                "prompt %lld: %lld tokens leave no room for an answer in the model's %lld", no,
                (long long)p->n, (long long)r->context);
        for (int64_t k = 0; k < p->n; k++)
            if (p->ids[k] < 0 || p->ids[k] >= cfg->vocab_size)
                return err_set(
                    err, E_INPUT,
                    "prompt %lld: token %d is outside the model's vocabulary of %lld; is "
                    "this the model's tokenizer?",
                    no, p->ids[k], (long long)cfg->vocab_size);
    }
    return OK;
}

/* The longest that any sequence can become. */
static int64_t capacity(const Run *r)
{
    int64_t longest = 0;
    for (int64_t i = 0; i < r->n_prompts; i++)
        if (r->prompts[i].n > longest) longest = r->prompts[i].n;
    return min(r->context, longest + r->opts->max_new_tokens);
}

/* Where the device copies to without a detour. */
static float *host_floats(const Run *r, int64_t n)
{
    Device *d = r->m->dev;
    size_t bytes = (size_t)n * sizeof(float);
    return d->backend->host_alloc ? d->backend->host_alloc(d, bytes) : xmalloc(bytes);
}

static void host_floats_free(const Run *r, float *p)
{
    Device *d = r->m->dev;
    if (!d->backend->host_free)
        free(p);
    else if (p)
        d->backend->host_free(d, p);
}

static void run_open(Run *r)
{
    r->live = xcalloc((size_t)r->batch, sizeof *r->live);
    const SamplerOpts *s = &r->opts->sampler;
    r->greedy = s->temperature == 0 && s->repetition_penalty == 1;
    bool records = r->m->dev->backend->replay && !r->opts->no_graph;
    r->early = r->greedy && !r->opts->no_cache && (records || r->opts->always_ahead);
    if (!r->greedy) r->logits = host_floats(r, r->batch * r->m->cfg.vocab_size);
    size_t n = (size_t)r->batch + 1;
    r->cu = xcalloc(n, sizeof *r->cu);
    r->n_new = xcalloc(n, sizeof *r->n_new);
    r->rows = xcalloc(n, sizeof *r->rows);
    r->slots = xcalloc(n, sizeof *r->slots);
    r->best = xcalloc(n, sizeof *r->best);
    feed_init(&r->feed, r->m->dev);
    if (r->opts->no_cache) return;
    kv_cache_init(&r->kv, r->m, r->batch, capacity(r));
    kv_cache_compact(&r->kv, r->slots, 0);
    token_pass_init(&r->pass, r->m, &r->kv,
                    &(TokenPassOpts){.greedy = r->greedy, .no_graph = r->opts->no_graph});
}

static void sequence_clear(Sequence *s)
{
    free(s->ids);
    strbuf_clear(&s->stream.held);
    strbuf_clear(&s->text);
    *s = (Sequence){0};
}

static void run_close(Run *r)
{
    for (int64_t i = 0; i < r->n_live; i++)
        sequence_clear(&r->live[i]);
    token_pass_clear(&r->pass);
    if (!r->opts->no_cache) kv_cache_clear(&r->kv);
    feed_clear(&r->feed);
    sampler_clear(&r->sampler);
    host_floats_free(r, r->logits);
    free(r->live), free(r->ids), free(r->positions);
    free(r->cu), free(r->n_new), free(r->rows), free(r->slots), free(r->best);
}

static void admit(Run *r)
{
    int64_t before = r->n_live;
    while (r->n_live < r->batch && r->n_admitted < r->n_prompts) {
        const GeneratePrompt *p = &r->prompts[r->n_admitted];
        Sequence *s = &r->live[r->n_live++];
        *s = (Sequence){.index = r->n_admitted++, .n = p->n};
        int64_t most = min(p->n + r->opts->max_new_tokens, r->context);
        s->ids = xmalloc((size_t)most * sizeof *s->ids);
        memcpy(s->ids, p->ids, (size_t)p->n * sizeof *s->ids);
        if (!r->t || !p->continues) continue;
        /* The prompt goes through the decoder, too, so that a first "▁word" keeps its space. */
        StrBuf ignored = {0};
        for (int64_t i = 0; i < p->n; i++)
            decode_stream_push(&s->stream, r->t, &ignored, p->ids[i], true);
        strbuf_clear(&ignored);
    }
    if (!r->opts->no_cache && r->n_live > before) kv_cache_add(&r->kv, r->n_live - before);
}

/* Chooses what each sequence reads in this pass.  Those that have one token left come first in the budget, so
 * that a long prompt does not hold up the others; everybody gets one at least.  Returns the sum. */
static int64_t share_pass(Run *r)
{
    int64_t budget = r->opts->tokens_per_pass > 0 ? r->opts->tokens_per_pass : 2048;
    int64_t left = budget - r->n_live, total = 0;
    for (int64_t i = 0; i < r->n_live; i++) {
        const Sequence *s = &r->live[i];
        int64_t wanted = s->n - s->n_read;
        int64_t more = r->opts->no_cache ? wanted - 1 : min(wanted - 1, left > 0 ? left : 0);
        left -= more;
        r->n_new[i] = (int32_t)(1 + more);
        total += 1 + more;
    }
    return total;
}

/* Every sequence that has not ended has one token to read, its last. */
static bool all_decode(const Run *r)
{
    bool all = !r->opts->no_cache;
    for (int64_t i = 0; i < r->n_live; i++)
        all &= r->live[i].ended || r->live[i].n - r->live[i].n_read == 1;
    return all;
}

/* The tokens that a sequence may get before it ends for its length. */
static int64_t room(const Run *r, const Sequence *s)
{
    return min(r->prompts[s->index].n + r->opts->max_new_tokens, r->context) - s->n;
}

/* How many passes may begin behind the next one.  None where a sequence has ended: those that have begun are the last with it. */
static int64_t passes_ahead(const Run *r)
{
    int64_t n = r->early ? TOKEN_PASSES_AHEAD : 0;
    for (int64_t i = 0; i < r->n_live; i++)
        n = r->live[i].ended ? 0 : min(n, room(r, &r->live[i]) - 1);
    return n;
}

/* Of all live sequences, in order. */
static void decode(Run *r)
{
    for (int64_t i = 0; i < r->n_live; i++) {
        Sequence *s = &r->live[i];
        if (!s->ended) r->slots[i] = s->ids[s->n_read++];
    }
    token_pass_run(&r->pass, r->slots);
    if (r->greedy)
        token_pass_read_best(&r->pass, r->best, passes_ahead(r));
    else
        tensor_read(r->m->dev, token_pass_logits(&r->pass), r->logits);
}

/* Of h (M,C) to the host: the best token of each row, or the logits. */
static void read_rows(Run *r, Ctx *c, Tensor *h)
{
    Tensor *logits = llama_logits(c, r->m, h);
    if (!r->greedy) {
        tensor_read(c->dev, logits, r->logits);
        return;
    }
    Tensor *best = tensor_new(c, DT_I32, 1, logits->shape);
    c->dev->k->argmax(c->dev, best, logits);
    tensor_read(c->dev, best, r->best);
}

/* One forward pass over new tokens of any number.  Logits of the sequences that have been read to their end go to r->logits,
 * one row each, in order; or their best to r->best. */
static void forward(Run *r)
{
    int64_t n = share_pass(r), at = 0, n_rows = 0, longest = 0;
    if (n > r->pass_cap) {
        r->pass_cap = n;
        r->ids = xrealloc(r->ids, (size_t)n * sizeof *r->ids);
        r->positions = xrealloc(r->positions, (size_t)n * sizeof *r->positions);
    }
    for (int64_t i = 0; i < r->n_live; i++) {
        Sequence *s = &r->live[i];
        r->cu[i] = (int32_t)at;
        for (int32_t k = 0; k < r->n_new[i]; k++, at++) {
            r->ids[at] = s->ids[s->n_read + k];
            r->positions[at] = (int32_t)s->n_read + k;
        }
        if (r->n_new[i] > longest) longest = r->n_new[i];
        if (s->n_read + r->n_new[i] == s->n) r->rows[n_rows++] = (int32_t)at - 1;
    }
    r->cu[r->n_live] = (int32_t)n;

    Llama *m = r->m;
    bool cached = !r->opts->no_cache;
    feed_begin(&r->feed, n, r->ids, r->positions, (int)r->n_live, r->cu, longest,
               cached ? &r->kv : NULL);
    Ctx *c = &r->feed.ctx;
    Tensor *h = llama_forward(c, m, &r->feed.batch);
    if (n_rows > 0) {
        read_rows(r, c, op_gather_rows(c, h, feed_ints(&r->feed, r->rows, n_rows)));
    }
    feed_end(&r->feed);
    if (cached) {
        kv_cache_advance(&r->kv, r->n_new);
        for (int64_t i = 0; i < r->n_live; i++)
            r->live[i].n_read += r->n_new[i];
    }
}

/* Tells the hook what has become certain. */
static void show(const Run *r, Sequence *s, bool all)
{
    if (!r->hooks || !r->hooks->text) return;
    size_t end = s->text.len;
    if (!all) end -= stop_held(&r->stops, s->text.data, s->text.len);
    if (end <= s->n_shown) return;
    r->hooks->text(r->hooks->ud, s->index, s->text.data + s->n_shown, end - s->n_shown);
    s->n_shown = end;
}

/* Cuts the text at a stop string that ends behind `scanned`. */
static bool stopped(const Run *r, Sequence *s, size_t scanned)
{
    int64_t at = stop_find(&r->stops, s->text.data, s->text.len, scanned);
    if (at < 0) return false;
    s->text.len = (size_t)at;
    s->text.data[at] = '\0';
    return true;
}

static void finish(const Run *r, Sequence *s, FinishReason why)
{
    size_t scanned = s->text.len;
    if (r->t && why != FINISH_STOP) {
        decode_stream_end(&s->stream, r->t, &s->text);
        if (stopped(r, s, scanned)) why = FINISH_STOP;
    }
    show(r, s, true);
    Generation *g = &r->out[s->index];
    int64_t n_prompt = r->prompts[s->index].n;
    g->n = s->n - n_prompt;
    g->ids = xmalloc((size_t)g->n * sizeof *g->ids);
    memcpy(g->ids, s->ids + n_prompt, (size_t)g->n * sizeof *g->ids);
    g->text = strbuf_take(&s->text);
    g->finish = why;
    if (r->hooks && r->hooks->done) r->hooks->done(r->hooks->ud, s->index);
    sequence_clear(s);
}

static bool is_eos(const GenerateOpts *o, int32_t id)
{
    for (int i = 0; i < o->n_eos; i++)
        if (o->eos_ids[i] == id) return true;
    return false;
}

/* Appends a token to a sequence; true when that ended it. */
static bool append(const Run *r, Sequence *s, int32_t id)
{
    s->ids[s->n++] = id;
    if (is_eos(r->opts, id)) {
        finish(r, s, FINISH_EOS);
        return true;
    }
    if (r->t) {
        size_t scanned = s->text.len;
        decode_stream_push(&s->stream, r->t, &s->text, id, true);
        if (stopped(r, s, scanned)) {
            finish(r, s, FINISH_STOP);
            return true;
        }
        show(r, s, false);
    }
    bool length = s->n - r->prompts[s->index].n >= r->opts->max_new_tokens;
    if (!length && s->n < r->context) return false;
    finish(r, s, length ? FINISH_LENGTH : FINISH_CONTEXT);
    return true;
}

/* Those that have ended leave, the others move up. */
static void leave(Run *r)
{
    int64_t kept = 0;
    for (int64_t i = 0; i < r->n_live; i++) {
        if (r->live[i].ended) continue;
        r->slots[kept] = (int32_t)i;
        r->live[kept++] = r->live[i];
    }
    for (int64_t i = kept; i < r->n_live; i++)
        r->live[i] = (Sequence){0};
    if (!r->opts->no_cache) kv_cache_compact(&r->kv, r->slots, kept);
    r->n_live = kept;
}

/* Picks a token for each sequence that was read to its end; those that it ends leave as soon as no pass has begun in which
 * others go on with them. */
static Status pick(Run *r, Err *err)
{
    int64_t vocab = r->m->cfg.vocab_size, row = 0, n_ended = 0;
    for (int64_t i = 0; i < r->n_live; i++) {
        Sequence *s = &r->live[i];
        if (s->ended) {
            row++;
        } else if (r->opts->no_cache || s->n_read == s->n) {
            const GeneratePrompt *p = &r->prompts[s->index];
            int32_t id = r->greedy
                             ? r->best[row]
                             : sampler_pick(&r->sampler, &r->opts->sampler, r->logits + row * vocab,
                                            vocab, s->ids, s->n, p->key, (uint64_t)(s->n - p->n));
            row++;
            if (id < 0)
                return err_set(err, E_FAILED, "prompt %lld, token %lld: the logits are not finite",
                               (long long)s->index + 1, (long long)(s->n - p->n) + 1);
            s->ended = append(r, s, id);
        }
        n_ended += s->ended;
    }
    if (n_ended == r->n_live) token_pass_cancel(&r->pass);
    if (n_ended > 0 && token_pass_ahead(&r->pass) == 0) leave(r);
    return OK;
}

Status generate(Generation *out, Llama *m, const Tokenizer *t, const GeneratePrompt *prompts,
                int64_t n, const GenerateOpts *opts, const GenerateHooks *hooks, Err *err)
{
    ASSERT(opts->max_new_tokens > 0 && opts->batch > 0, "%lld tokens, %lld sequences",
           (long long)opts->max_new_tokens, (long long)opts->batch);
    ASSERT(t || opts->n_stop == 0, "stop strings need a tokenizer");
    Run r = {.m = m,
             .t = t,
             .prompts = prompts,
             .n_prompts = n,
             .opts = opts,
             .hooks = hooks,
             .out = out,
             .stops = {opts->stop, opts->n_stop},
             .context = generate_context(m),
             .batch = min(opts->batch, n)};
    if (n == 0) return OK;
    TRY(check_prompts(&r, err));
    run_open(&r);
    Status s = OK;
    while (s == OK) {
        if (token_pass_ahead(&r.pass) == 0) admit(&r);
        if (r.n_live == 0) break;
        if (all_decode(&r))
            decode(&r);
        else
            forward(&r);
        s = pick(&r, err);
    }
    run_close(&r);
    return s;
}
