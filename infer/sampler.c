/* Reference: transformers generation/logits_process.py, of which the order and the treatment of ties and of the
 * token that crosses top_p are kept. */
#include "infer/sampler.h"

#include "base/rng.h"
#include "base/str.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct Candidate {
    float score;
    int32_t id;
};

SamplerOpts sampler_defaults(void)
{
    return (SamplerOpts){.top_p = 1, .repetition_penalty = 1};
}

Status sampler_check(const SamplerOpts *o, Err *err)
{
    /* Written so that NaN fails. */
    if (!(o->temperature == 0 || (o->temperature >= 1e-6 && o->temperature <= 100)))
        return err_set(err, E_INPUT, "--temperature: must be 0 (greedy), or 1e-6 to 100, got %g",
                       o->temperature);
    if (o->top_k < 0)
        return err_set(err, E_INPUT, "--top-k: must be 0 (off) or more, got %lld",
                       (long long)o->top_k);
    if (!(o->top_p > 0 && o->top_p <= 1))
        return err_set(err, E_INPUT, "--top-p: must be above 0 and at most 1 (off), got %g",
                       o->top_p);
    if (!(o->min_p >= 0 && o->min_p <= 1))
        return err_set(err, E_INPUT, "--min-p: must be 0 (off) to 1, got %g", o->min_p);
    if (!(o->repetition_penalty >= 1e-3 && o->repetition_penalty <= 1000))
        return err_set(err, E_INPUT, "--repetition-penalty: must be 0.001 to 1000 (1: off), got %g",
                       o->repetition_penalty);
    return OK;
}

void sampler_clear(Sampler *s)
{
    free(s->seen);
    free(s->order);
    free(s->candidates);
    *s = (Sampler){0};
}

static void reserve(Sampler *s, int64_t n_vocab)
{
    if (s->cap >= n_vocab) return;
    s->seen = xrealloc(s->seen, (size_t)n_vocab);
    s->order = xrealloc(s->order, (size_t)n_vocab * sizeof *s->order);
    s->candidates = xrealloc(s->candidates, (size_t)n_vocab * sizeof *s->candidates);
    s->cap = n_vocab;
}

/* Each distinct token once, whatever its count. */
static void penalise(Sampler *s, float penalty, float *logits, int64_t n_vocab,
                     const int32_t *previous, int64_t n_previous)
{
    memset(s->seen, 0, (size_t)n_vocab);
    for (int64_t i = 0; i < n_previous; i++) {
        int32_t id = previous[i];
        ASSERT(id >= 0 && id < n_vocab, "token %d of %lld", id, (long long)n_vocab);
        if (s->seen[id]) continue;
        s->seen[id] = 1;
        logits[id] = logits[id] < 0 ? logits[id] * penalty : logits[id] / penalty;
    }
}

/* The k-th largest of x[0..n), 1 <= k <= n, by Hoare's quickselect; reorders x. */
static float kth_largest(float *x, int64_t n, int64_t k)
{
    int64_t low = 0, high = n - 1, at = k - 1;
    while (low < high) {
        float pivot = x[low + (high - low) / 2];
        int64_t i = low, j = high;
        while (i <= j) {
            while (x[i] > pivot)
                i++;
            while (x[j] < pivot)
                j--;
            if (i > j) break;
            float t = x[i];
            x[i++] = x[j], x[j--] = t;
        }
        if (at <= j)
            high = j;
        else if (at >= i)
            low = i;
        else
            break;
    }
    return x[at];
}

static void keep_top_k(Sampler *s, int64_t k, float *scores, int64_t n_vocab)
{
    if (k >= n_vocab) return;
    memcpy(s->order, scores, (size_t)n_vocab * sizeof *scores);
    float least = kth_largest(s->order, n_vocab, k);
    for (int64_t i = 0; i < n_vocab; i++)
        if (scores[i] < least) scores[i] = -INFINITY;
}

static float largest(const float *x, int64_t n)
{
    float max = -INFINITY;
    for (int64_t i = 0; i < n; i++)
        if (x[i] > max) max = x[i];
    return max;
}

static double sum_exp(const float *scores, int64_t n, float max)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += exp((double)scores[i] - max);
    return sum;
}

/* Best first; of equal scores the lowest id, so that the kept set is defined. */
static int by_score(const void *a, const void *b)
{
    const struct Candidate *x = a, *y = b;
    if (x->score != y->score) return x->score < y->score ? 1 : -1;
    return (x->id > y->id) - (x->id < y->id);
}

static void keep_top_p(Sampler *s, double p, float *scores, int64_t n_vocab)
{
    float max = largest(scores, n_vocab);
    double sum = sum_exp(scores, n_vocab, max);
    /* Dropped is the longest run of the least probable whose sum is at most 1 - p.  Tokens of at most
     * (1 - p) / V each are surely in it: only the others need an order. */
    double sure = (1 - p) / (double)n_vocab * sum, dropped = 0;
    int64_t n = 0;
    for (int64_t i = 0; i < n_vocab; i++) {
        double e = exp((double)scores[i] - max);
        if (e > sure) {
            s->candidates[n++] = (struct Candidate){scores[i], (int32_t)i};
        } else {
            dropped += e;
            scores[i] = -INFINITY;
        }
    }
    qsort(s->candidates, (size_t)n, sizeof *s->candidates, by_score);
    while (n > 1) { /* the best always stays */
        dropped += exp((double)s->candidates[n - 1].score - max);
        if (dropped > (1 - p) * sum) break;
        scores[s->candidates[--n].id] = -INFINITY;
    }
}

static void keep_min_p(double p, float *scores, int64_t n_vocab)
{
    float max = largest(scores, n_vocab);
    for (int64_t i = 0; i < n_vocab; i++)
        if (exp((double)scores[i] - max) < p) scores[i] = -INFINITY;
}

void sampler_scores(Sampler *s, const SamplerOpts *o, float *logits, int64_t n_vocab,
                    const int32_t *previous, int64_t n_previous)
{
    reserve(s, n_vocab);
    if (o->repetition_penalty != 1)
        penalise(s, (float)o->repetition_penalty, logits, n_vocab, previous, n_previous);
    if (o->temperature == 0) return;
    float temperature = (float)o->temperature;
    if (temperature != 1)
        for (int64_t i = 0; i < n_vocab; i++)
            logits[i] /= temperature;
    if (o->top_k > 0) keep_top_k(s, o->top_k, logits, n_vocab);
    if (o->top_p < 1) keep_top_p(s, o->top_p, logits, n_vocab);
    if (o->min_p > 0) keep_min_p(o->min_p, logits, n_vocab);
}

int32_t sampler_pick(Sampler *s, const SamplerOpts *o, float *logits, int64_t n_vocab,
                     const int32_t *previous, int64_t n_previous, uint64_t sequence,
                     uint64_t position)
{
    bool any = false;
    for (int64_t i = 0; i < n_vocab; i++) {
        if (isnan(logits[i]) || logits[i] == INFINITY) return -1;
        any |= logits[i] != -INFINITY;
    }
    if (!any) return -1;
    sampler_scores(s, o, logits, n_vocab, previous, n_previous);
    if (o->temperature == 0) {
        int64_t best = 0;
        for (int64_t i = 1; i < n_vocab; i++)
            if (logits[i] > logits[best]) best = i;
        return (int32_t)best;
    }
    float max = largest(logits, n_vocab);
    uint64_t key = rng_mix(rng_mix(o->seed, 0x73616D706C65ull /* "sample" */), sequence);
    double left = rng_uniform(key, position) * sum_exp(logits, n_vocab, max);
    int32_t last = -1;
    for (int64_t i = 0; i < n_vocab; i++) {
        if (logits[i] == -INFINITY) continue;
        last = (int32_t)i;
        left -= exp((double)logits[i] - max);
        if (left < 0) break;
    }
    return last; /* rounding may leave a rest after the last one */
}
