/* ROUGE and the stemmer against what rouge_score and nltk answered (tests/fixtures/README.md). */
#include "base/fs.h"
#include "base/json.h"
#include "infer/porter.h"
#include "infer/rouge.h"
#include "tests/support/shared.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double tolerance = 1e-9;

Test(porter, stems_as_nltk_does)
{
    char *text;
    size_t len;
    Err err = {0};
    char *path = source_path("tests/fixtures/stems.tsv");
    cr_assert_eq(file_read(&text, &len, path, &err), OK, "%s", err.line);
    free(path);
    int n = 0, wrong = 0;
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        char *tab = strchr(line, '\t');
        cr_assert_not_null(tab, "%s", line);
        *tab = '\0';
        /* An exact-size block, so that a sanitizer sees a letter too many. */
        size_t n_word = strlen(line);
        char *word = xmalloc(n_word);
        memcpy(word, line, n_word);
        size_t n_stem = porter_stem(word, n_word);
        n++;
        if (n_stem != strlen(tab + 1) || memcmp(word, tab + 1, n_stem) != 0) {
            wrong++;
            cr_log_error("%s: %.*s instead of %s", line, (int)n_stem, word, tab + 1);
        }
        free(word);
    }
    cr_assert_geq(n, 7000);
    cr_assert_eq(wrong, 0);
    free(text);
}

static int compare(const Json *want, const RougeScore *got, const char *row)
{
    int wrong = 0;
    for (int k = 0; k < ROUGE_N; k++) {
        const Json *values = json_get(want, rouge_names[k]);
        cr_assert_eq(json_size(values), 3, "%s: %s", row, rouge_names[k]);
        double have[] = {got[k].precision, got[k].recall, got[k].f}, v = NAN;
        for (size_t i = 0; i < 3; i++) {
            cr_assert(json_number(json_at(values, i), &v));
            if (fabs(v - have[i]) <= tolerance) continue;
            wrong++;
            cr_log_error("%s: %s[%zu] is %.12f instead of %.12f", row, rouge_names[k], i, have[i],
                         v);
        }
    }
    return wrong;
}

Test(rouge, equals_rouge_score)
{
    char *text;
    size_t len;
    Err err = {0};
    char *path = source_path("tests/fixtures/rouge.jsonl");
    cr_assert_eq(file_read(&text, &len, path, &err), OK, "%s", err.line);
    free(path);
    int n = 0, wrong = 0;
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"), n++) {
        Json *j;
        cr_assert_eq(json_parse(&j, line, strlen(line), "rouge.jsonl", n + 1, 0, &err), OK, "%s",
                     err.line);
        const char *target, *prediction;
        size_t n_target, n_prediction;
        cr_assert(json_str(json_get(j, "target"), &target, &n_target));
        cr_assert(json_str(json_get(j, "prediction"), &prediction, &n_prediction));
        for (int stem = 0; stem < 2; stem++) {
            RougeScore got[ROUGE_N];
            rouge_score(got, target, n_target, prediction, n_prediction, stem);
            wrong += compare(json_get(j, stem ? "stemmed" : "plain"), got, line);
        }
        json_free(j);
    }
    cr_assert_geq(n, 400);
    cr_assert_eq(wrong, 0);
    free(text);
}

/* rouge_scorer_test.py's own numbers. */
Test(rouge, vectors_of_the_reference_tests)
{
    static const struct {
        const char *target, *prediction;
        int kind;
        double precision, recall, f;
    } cases[] = {
        {"testing one two", "testing", ROUGE_1, 1, 1 / 3.0, 0.5},
        {"testing one two", "testing one", ROUGE_2, 1, 0.5, 2 / 3.0},
        {"testing one two", "testing one", ROUGE_L, 1, 2 / 3.0, 0.8},
        {"testing one two", "testing two", ROUGE_L, 1, 2 / 3.0, 0.8},
        {"w1 w2 w3 w4 w5", "w1 w2 w6 w7 w8\nw1 w3 w8 w9 w5", ROUGE_LSUM, 0.4, 0.8, 8 / 15.0},
        {"a b c d e", "b e c d", ROUGE_L, 3 / 4.0, 3 / 5.0, 2 / 3.0},
        {"testing one two", "", ROUGE_1, 0, 0, 0},
        {"testing one two", "?! ...", ROUGE_LSUM, 0, 0, 0},
        {"", "testing", ROUGE_L, 0, 0, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        RougeScore got[ROUGE_N];
        rouge_score(got, cases[i].target, strlen(cases[i].target), cases[i].prediction,
                    strlen(cases[i].prediction), false);
        const RougeScore *g = &got[cases[i].kind];
        cr_expect(fabs(g->precision - cases[i].precision) < tolerance &&
                      fabs(g->recall - cases[i].recall) < tolerance &&
                      fabs(g->f - cases[i].f) < tolerance,
                  "case %zu: %g %g %g", i, g->precision, g->recall, g->f);
    }
}

/* Texts are what a model wrote: any bytes, none of them read beyond the end. */
Test(rouge, any_bytes)
{
    for (unsigned seed = 0; seed < 200; seed++) {
        char *s = xmalloc(seed);
        for (unsigned i = 0; i < seed; i++)
            s[i] = (char)(i * 37 + seed * seed);
        if (seed >= 2) memcpy(s + seed - 2, "\xE2\x84", 2);
        RougeScore got[ROUGE_N];
        rouge_score(got, s, seed, s, seed, true);
        for (int k = 0; k < ROUGE_N; k++)
            cr_expect(got[k].f == 0 || fabs(got[k].f - 1) < tolerance, "%u: %g", seed, got[k].f);
        free(s);
    }
}
