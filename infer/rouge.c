/* Words become small integers first, so that everything after is on arrays of them. */
#include "infer/rouge.h"

#include "base/str.h"
#include "infer/porter.h"

#include <stdlib.h>
#include <string.h>

const char *const rouge_names[ROUGE_N] = {"rouge1", "rouge2", "rougeL", "rougeLsum"};

typedef struct Text {
    StrBuf words; /* NUL-terminated, one after the other */
    int32_t *ids; /* (n) the same word has the same id in both texts */
    int64_t n, cap;
    int64_t *lines; /* (n_lines + 1) first word of each line that has any, then n */
    int64_t n_lines, lines_cap;
} Text;

static void end_word(Text *t, size_t start, bool stem)
{
    size_t n = t->words.len - start;
    if (n == 0) return;
    if (stem && n > 3) t->words.len = start + porter_stem(t->words.data + start, n);
    strbuf_putc(&t->words, '\0');
    t->n++;
}

static void end_line(Text *t)
{
    if (t->n_lines > 0 && t->lines[t->n_lines - 1] == t->n) return; /* nothing on it */
    if (t->n_lines == t->lines_cap) {
        t->lines_cap = t->lines_cap ? 2 * t->lines_cap : 16;
        t->lines = xrealloc(t->lines, (size_t)t->lines_cap * sizeof *t->lines);
    }
    t->lines[t->n_lines++] = t->n;
}

static void split(Text *t, const char *s, size_t n, bool stem)
{
    end_line(t); /* the first line begins at word 0 */
    size_t start = 0;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        char low = 0;
        size_t skip = 0;
        if (c >= 'A' && c <= 'Z') {
            low = (char)(c - 'A' + 'a');
        } else if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9')) {
            low = (char)c;
        } else if (n - i >= 3 && memcmp(s + i, "\xE2\x84\xAA", 3) == 0) {
            /* U+212A KELVIN SIGN and U+0130 are the only characters above ASCII whose lower case has an
             * ASCII letter in it. */
            low = 'k', skip = 2;
        } else if (n - i >= 2 && memcmp(s + i, "\xC4\xB0", 2) == 0) {
            strbuf_putc(&t->words, 'i'); /* then U+0307, which ends the word */
        }
        if (low) {
            strbuf_putc(&t->words, low);
            i += skip;
            continue;
        }
        end_word(t, start, stem);
        start = t->words.len;
        if (c == '\n') end_line(t);
    }
    end_word(t, start, stem);
    end_line(t);
    t->n_lines--; /* the last entry is the end */
}

typedef struct Occurrence {
    const char *word;
    int32_t *id;
} Occurrence;

static int by_word(const void *a, const void *b)
{
    return strcmp(((const Occurrence *)a)->word, ((const Occurrence *)b)->word);
}

/* Numbers the words of both texts; returns how many different ones there are. */
static int32_t number_words(Text *texts[2])
{
    int64_t total = texts[0]->n + texts[1]->n, k = 0;
    Occurrence *all = xmalloc((size_t)total * sizeof *all);
    for (int i = 0; i < 2; i++) {
        texts[i]->ids = xmalloc((size_t)texts[i]->n * sizeof(int32_t));
        const char *word = texts[i]->words.data;
        for (int64_t j = 0; j < texts[i]->n; j++, word += strlen(word) + 1)
            all[k++] = (Occurrence){word, &texts[i]->ids[j]};
    }
    if (total > 0) qsort(all, (size_t)total, sizeof *all, by_word);
    int32_t id = -1;
    for (int64_t j = 0; j < total; j++) {
        if (j == 0 || strcmp(all[j - 1].word, all[j].word)) id++;
        *all[j].id = id;
    }
    free(all);
    return id + 1;
}

static RougeScore score(int64_t hits, int64_t n_prediction, int64_t n_target)
{
    RougeScore s = {0, 0, 0};
    if (n_prediction > 0) s.precision = (double)hits / (double)n_prediction;
    if (n_target > 0) s.recall = (double)hits / (double)n_target;
    if (s.precision + s.recall > 0) s.f = 2 * s.precision * s.recall / (s.precision + s.recall);
    return s;
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* The n-grams (n 1 or 2) of a text as numbers, sorted. */
static uint64_t *ngrams(const Text *t, int n, int64_t *count)
{
    *count = t->n >= n ? t->n - n + 1 : 0;
    uint64_t *g = xmalloc((size_t)*count * sizeof *g);
    for (int64_t i = 0; i < *count; i++)
        g[i] = n == 1 ? (uint64_t)t->ids[i] : (uint64_t)t->ids[i] << 32 | (uint32_t)t->ids[i + 1];
    if (*count > 0) qsort(g, (size_t)*count, sizeof *g, by_value);
    return g;
}

static RougeScore score_ngrams(const Text *target, const Text *prediction, int n)
{
    int64_t n_a, n_b, hits = 0;
    uint64_t *a = ngrams(target, n, &n_a), *b = ngrams(prediction, n, &n_b);
    for (int64_t i = 0, j = 0; i < n_a && j < n_b;) {
        if (a[i] == b[j])
            hits++, i++, j++;
        else if (a[i] < b[j])
            i++;
        else
            j++;
    }
    free(a);
    free(b);
    return score(hits, n_b, n_a);
}

/* Length of the longest common subsequence of a[0..n) and b[0..m).  With `in_lcs` (n), marks the members of
 * one: the one that rouge_score's back-trace finds among several. */
static int64_t lcs(const int32_t *a, int64_t n, const int32_t *b, int64_t m, bool *in_lcs)
{
    if (n == 0 || m == 0) return 0;
    int64_t *above = xcalloc((size_t)m + 1, sizeof *above);
    int64_t *row = xcalloc((size_t)m + 1, sizeof *row);
    /* Bit (i, j): the cell to the left of (i, j) holds strictly more than the one above. */
    size_t pitch = (size_t)(m + 7) / 8;
    uint8_t *left = in_lcs ? xcalloc((size_t)n, pitch) : NULL;
    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = 0; j < m; j++) {
            if (a[i] == b[j]) {
                row[j + 1] = above[j] + 1;
            } else if (row[j] > above[j + 1]) {
                row[j + 1] = row[j];
                if (left) left[(size_t)i * pitch + (size_t)j / 8] |= (uint8_t)(1 << (j & 7));
            } else {
                row[j + 1] = above[j + 1];
            }
        }
        int64_t *t = above;
        above = row, row = t;
    }
    int64_t length = above[m];
    if (in_lcs) {
        for (int64_t i = n - 1, j = m - 1; i >= 0 && j >= 0;) {
            if (a[i] == b[j])
                in_lcs[i] = true, i--, j--;
            else if (left[(size_t)i * pitch + (size_t)j / 8] >> (j & 7) & 1)
                j--;
            else
                i--;
        }
    }
    free(above);
    free(row);
    free(left);
    return length;
}

static void count_words(int64_t *counts, const Text *t)
{
    for (int64_t i = 0; i < t->n; i++)
        counts[t->ids[i]]++;
}

/* Each target line against all lines of the prediction: the union of what its longest common subsequences
 * take from it.  A word counts only as often as both texts have it. */
static RougeScore score_lsum(const Text *target, const Text *prediction, int32_t n_words)
{
    int64_t *in_target = xcalloc((size_t)n_words, sizeof *in_target), hits = 0;
    int64_t *in_prediction = xcalloc((size_t)n_words, sizeof *in_prediction);
    bool *taken = xcalloc((size_t)target->n, sizeof *taken);
    count_words(in_target, target);
    count_words(in_prediction, prediction);
    for (int64_t i = 0; i < target->n_lines; i++) {
        int64_t first = target->lines[i], end = target->lines[i + 1];
        for (int64_t j = 0; j < prediction->n_lines; j++) {
            int64_t p = prediction->lines[j];
            lcs(target->ids + first, end - first, prediction->ids + p, prediction->lines[j + 1] - p,
                taken + first);
        }
        for (int64_t k = first; k < end; k++) {
            int32_t id = target->ids[k];
            if (!taken[k] || in_target[id] == 0 || in_prediction[id] == 0) continue;
            hits++, in_target[id]--, in_prediction[id]--;
        }
    }
    free(in_target);
    free(in_prediction);
    free(taken);
    return score(hits, prediction->n, target->n);
}

static void text_clear(Text *t)
{
    strbuf_clear(&t->words);
    free(t->ids);
    free(t->lines);
}

void rouge_score(RougeScore out[ROUGE_N], const char *target, size_t n_target,
                 const char *prediction, size_t n_prediction, bool stem)
{
    Text t = {0}, p = {0};
    split(&t, target, n_target, stem);
    split(&p, prediction, n_prediction, stem);
    int32_t n_words = number_words((Text *[2]){&t, &p});
    out[ROUGE_1] = score_ngrams(&t, &p, 1);
    out[ROUGE_2] = score_ngrams(&t, &p, 2);
    out[ROUGE_L] = score(lcs(t.ids, t.n, p.ids, p.n, NULL), p.n, t.n);
    out[ROUGE_LSUM] = score_lsum(&t, &p, n_words);
    text_clear(&t);
    text_clear(&p);
}
