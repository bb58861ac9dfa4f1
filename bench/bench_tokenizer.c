/* bench_tokenizer TOKENIZER DATA...: how long a tokenizer takes to load, and how fast it encodes every
 * string of the rows of JSON or JSONL files, on one core.  Prints the first pass, in which the cache of
 * words starts empty, and the best of five; for loading the best of five, by the clock and in processor
 * time, which other programs on the machine disturb less. */
#include "base/json.h"
#include "data/jsonl.h"
#include "data/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static double now(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

typedef struct Texts {
    StrBuf pool;
    size_t *ends;
    size_t n, cap;
} Texts;

static void add_strings(Texts *to, const Json *row)
{
    for (void *it = json_first(row); it; it = json_next(row, it)) {
        const char *s;
        size_t n;
        if (!json_str(json_iter_value(it), &s, &n)) continue;
        if (to->n == to->cap) {
            to->cap = to->cap ? 2 * to->cap : 1024;
            to->ends = xrealloc(to->ends, to->cap * sizeof *to->ends);
        }
        strbuf_append(&to->pool, s, n);
        to->ends[to->n++] = to->pool.len;
    }
}

static Status read_texts(Texts *to, const char *path, Err *err)
{
    RowReader *rows;
    TRY(rows_open(&rows, path, err));
    Status s = OK;
    for (;;) {
        const char *text;
        size_t len;
        int64_t line;
        Json *row;
        s = rows_next(rows, &text, &len, &line, err);
        if (s != OK || !text) break;
        s = json_parse(&row, text, len, path, (int)line, 0, err);
        if (s != OK) break;
        add_strings(to, row);
        json_free(row);
    }
    rows_close(rows);
    return s;
}

/* Seconds. */
static double encode_all(const Tokenizer *t, const Texts *texts, TokenBuf *b)
{
    double from = now(CLOCK_MONOTONIC);
    b->n = 0;
    for (size_t i = 0, at = 0; i < texts->n; at = texts->ends[i++])
        tokenizer_encode(t, b, texts->pool.data + at, texts->ends[i] - at, 0);
    return now(CLOCK_MONOTONIC) - from;
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "usage: bench_tokenizer TOKENIZER DATA.json[l][.gz]...\n");
        return 2;
    }
    Err err = {0};
    Tokenizer *t = NULL;
    double load = 1e9, cpu = 1e9;
    for (int i = 0; i < 5; i++) {
        tokenizer_free(t);
        double from = now(CLOCK_MONOTONIC), cpu_from = now(CLOCK_PROCESS_CPUTIME_ID);
        if (tokenizer_load(&t, argv[1], &err) != OK) {
            fprintf(stderr, "%s\n", err.line);
            return 2;
        }
        double s = now(CLOCK_MONOTONIC) - from, c = now(CLOCK_PROCESS_CPUTIME_ID) - cpu_from;
        load = s < load ? s : load;
        cpu = c < cpu ? c : cpu;
    }
    Texts texts = {0};
    for (int i = 2; i < argc; i++) {
        if (read_texts(&texts, argv[i], &err) == OK) continue;
        fprintf(stderr, "%s\n", err.line);
        return 2;
    }
    TokenBuf b = {0};
    double first = encode_all(t, &texts, &b), best = first, mb = 1e-6 * (double)texts.pool.len;
    for (int i = 0; i < 5; i++) {
        double s = encode_all(t, &texts, &b);
        best = s < best ? s : best;
    }
    printf("%s: %s, %d ids\n", argv[1], tokenizer_kind(t), tokenizer_vocab_size(t));
    printf("load    %.3f s (%.3f s of processor time)\n", load, cpu);
    printf("encode  %.1f MB/s, best %.1f MB/s  (%.2f MB in %zu texts, %lld ids)\n", mb / first,
           mb / best, mb, texts.n, (long long)b.n);
    tokenbuf_clear(&b);
    tokenizer_free(t);
    strbuf_clear(&texts.pool);
    free(texts.ends);
    return 0;
}
