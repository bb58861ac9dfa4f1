/* Scores against transformers' logits processors (tests/fixtures/README.md), and the draw's own promises. */
#include "base/fs.h"
#include "base/json.h"
#include "base/str.h"
#include "infer/sampler.h"
#include "tests/support/shared.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static double number(const Json *object, const char *key)
{
    double v = NAN;
    cr_assert(json_number(json_get(object, key), &v), "%s", key);
    return v;
}

static int32_t *ints(const Json *a)
{
    int32_t *x = xmalloc(json_size(a) * sizeof *x);
    int64_t v = -1;
    for (size_t i = 0; i < json_size(a); i++) {
        cr_assert(json_int(json_at(a, i), &v));
        x[i] = (int32_t)v;
    }
    return x;
}

Test(sampler, scores_equal_transformers)
{
    Json *all;
    Err err = {0};
    char *path = source_path("tests/fixtures/sampler.json");
    cr_assert_eq(json_parse_file(&all, path, &err), OK, "%s", err.line);
    free(path);
    cr_assert_geq(json_size(all), 90);
    Sampler s = {0};
    for (size_t c = 0; c < json_size(all); c++) {
        const Json *j = json_at(all, c);
        const Json *logits = json_get(j, "logits"), *want = json_get(j, "scores");
        SamplerOpts o = sampler_defaults();
        o.temperature = number(j, "temperature");
        o.top_k = (int64_t)number(j, "top_k");
        o.top_p = number(j, "top_p");
        o.repetition_penalty = number(j, "repetition_penalty");
        size_t n = json_size(logits);
        float *x = xmalloc(n * sizeof *x);
        double v = NAN;
        for (size_t i = 0; i < n; i++) {
            cr_assert(json_number(json_at(logits, i), &v));
            x[i] = (float)v;
        }
        int32_t *previous = ints(json_get(j, "previous"));
        sampler_scores(&s, &o, x, (int64_t)n, previous,
                       (int64_t)json_size(json_get(j, "previous")));
        double sum = 0;
        for (size_t i = 0; i < n; i++) {
            bool dropped = json_kind(json_at(want, i)) == JK_NULL;
            if (!dropped) json_number(json_at(want, i), &v);
            cr_expect(dropped ? x[i] == -INFINITY : fabs(x[i] - v) <= 1e-6 * fmax(1, fabs(v)),
                      "case %zu, token %zu: %g instead of %g", c, i, x[i], dropped ? -INFINITY : v);
            sum += exp(x[i]);
        }
        for (size_t i = 0; i < n; i++) {
            cr_assert(json_number(json_at(json_get(j, "probs"), i), &v));
            cr_expect_lt(fabs(exp(x[i]) / sum - v), 1e-6, "case %zu, probability %zu", c, i);
        }
        free(previous);
        free(x);
    }
    sampler_clear(&s);
    json_free(all);
}

/* A vocabulary of real size: the pre-selection of top-p and the selection of top-k against a full sort. */
static int descending(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

Test(sampler, large_vocabulary)
{
    enum { V = 32000 };
    float *x = xmalloc(V * sizeof *x), *sorted = xmalloc(V * sizeof *x),
          *y = xmalloc(V * sizeof *y);
    Sampler s = {0};
    for (uint64_t c = 0; c < 6; c++) {
        uint64_t h = c;
        for (int i = 0; i < V; i++) {
            h = h * 6364136223846793005u + 1442695040888963407u;
            x[i] = (float)(h >> 40) / (float)(1 << 24) * (c % 2 ? 12.0f : 0.5f);
        }
        memcpy(sorted, x, V * sizeof *x);
        qsort(sorted, V, sizeof *sorted, descending);

        SamplerOpts o = sampler_defaults();
        o.temperature = 1;
        o.top_k = 1 + (int64_t)c * 40;
        memcpy(y, x, V * sizeof *x);
        sampler_scores(&s, &o, y, V, NULL, 0);
        for (int i = 0; i < V; i++)
            cr_assert_eq(y[i] != -INFINITY, x[i] >= sorted[o.top_k - 1], "top-k %d", i);

        o.top_k = 0;
        o.top_p = 0.1 + 0.15 * (double)c;
        memcpy(y, x, V * sizeof *x);
        sampler_scores(&s, &o, y, V, NULL, 0);
        double sum = 0, kept = 0;
        for (int i = 0; i < V; i++)
            sum += exp(x[i] - sorted[0]);
        int n = 0;
        do
            kept += exp(sorted[n++] - sorted[0]);
        while (kept < o.top_p * sum * (1 - 1e-12));
        int got = 0;
        for (int i = 0; i < V; i++)
            got += y[i] != -INFINITY;
        cr_expect_eq(got, n, "top-p %g keeps %d instead of %d", o.top_p, got, n);
    }
    sampler_clear(&s);
    free(x), free(sorted), free(y);
}

Test(sampler, greedy)
{
    Sampler s = {0};
    SamplerOpts o = sampler_defaults();
    /* The others are ignored, as transformers does. */
    o.top_k = 1, o.top_p = 0.01, o.min_p = 1;
    float ties[] = {1, 3, -2, 3, 3};
    cr_expect_eq(sampler_pick(&s, &o, ties, 5, NULL, 0, 0, 0), 1, "ties go to the lowest id");
    o.repetition_penalty = 2;
    float seen[] = {1, 3, -2, 2.5f};
    cr_expect_eq(sampler_pick(&s, &o, seen, 4, (int32_t[]){1, 1, 2}, 3, 0, 0), 3,
                 "the penalty holds for greedy, too");
    float nan[] = {0, NAN, 1}, inf[] = {0, INFINITY}, none[] = {-INFINITY, -INFINITY};
    cr_expect_eq(sampler_pick(&s, &o, nan, 3, NULL, 0, 0, 0), -1);
    cr_expect_eq(sampler_pick(&s, &o, inf, 2, NULL, 0, 0, 0), -1);
    cr_expect_eq(sampler_pick(&s, &o, none, 2, NULL, 0, 0, 0), -1);
    sampler_clear(&s);
}

Test(sampler, draws_have_the_probabilities_of_the_scores)
{
    enum { V = 5, DRAWS = 40000 };
    static const float logits[V] = {0.5f, -1, 2, 1.25f, -3};
    Sampler s = {0};
    SamplerOpts o = sampler_defaults();
    o.temperature = 1.5, o.top_k = 4, o.seed = 7;
    float scores[V];
    memcpy(scores, logits, sizeof scores);
    sampler_scores(&s, &o, scores, V, NULL, 0);
    double sum = 0, chi2 = 0;
    int counts[V] = {0};
    for (int i = 0; i < V; i++)
        sum += exp(scores[i]);
    for (uint64_t i = 0; i < DRAWS; i++) {
        float x[V];
        memcpy(x, logits, sizeof x);
        counts[sampler_pick(&s, &o, x, V, NULL, 0, i % 100, i / 100)]++;
    }
    cr_expect_eq(counts[4], 0, "top-k leaves it out");
    for (int i = 0; i < 4; i++) {
        double expected = DRAWS * exp(scores[i]) / sum;
        chi2 += pow(counts[i] - expected, 2) / expected;
    }
    cr_expect_lt(chi2, 16.3, "three degrees of freedom, p 0.001: %g", chi2);
    sampler_clear(&s);
}

Test(sampler, draw_depends_on_seed_sequence_and_position_alone)
{
    enum { V = 1000 };
    float x[V];
    Sampler s = {0};
    SamplerOpts o = sampler_defaults();
    o.temperature = 1;
    int32_t first[4];
    for (int round = 0; round < 2; round++) {
        const uint64_t keys[4][3] = {{1, 2, 3}, {2, 2, 3}, {1, 3, 3}, {1, 2, 4}};
        for (int i = 0; i < 4; i++) {
            for (int v = 0; v < V; v++)
                x[v] = 0;
            o.seed = keys[i][0];
            int32_t id = sampler_pick(&s, &o, x, V, NULL, 0, keys[i][1], keys[i][2]);
            if (round == 0) first[i] = id;
            cr_expect_eq(id, first[i]);
            for (int j = 0; j < i; j++)
                cr_expect_neq(id, first[j], "keys %d and %d", i, j);
        }
    }
    sampler_clear(&s);
}

Test(sampler, ranges)
{
    static const struct {
        SamplerOpts o;
        const char *names;
    } cases[] = {
        {{-1, 0, 1, 0, 1, 0}, "--temperature"},
        {{NAN, 0, 1, 0, 1, 0}, "--temperature"},
        {{1, -1, 1, 0, 1, 0}, "--top-k"},
        {{1, 0, 0, 0, 1, 0}, "--top-p"},
        {{1, 0, 1.5, 0, 1, 0}, "--top-p"},
        {{1, 0, 1, -0.1, 1, 0}, "--min-p"},
        {{1, 0, 1, 0, 0, 0}, "--repetition-penalty"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Err err = {0};
        cr_expect_eq(sampler_check(&cases[i].o, &err), E_INPUT);
        cr_expect(str_starts(err.line, cases[i].names), "%s", err.line);
    }
    SamplerOpts o = sampler_defaults();
    Err err = {0};
    cr_expect_eq(sampler_check(&o, &err), OK);
}
