/* Best fit: nothing lost, nothing twice, no row too full, few rows. */
#include "base/rng.h"
#include "base/str.h"
#include "data/pack.h"

#include <criterion/criterion.h>
#include <stdlib.h>

/* Best fit by looking at all rows, the longest first: what pack.c must equal in the number of rows. */
static int64_t plain_rows(const int32_t *lengths, int64_t n, int64_t capacity, int max_items)
{
    int64_t *room = xmalloc((size_t)(n + 1) * sizeof *room), rows = 0;
    int *items = xcalloc((size_t)n + 1, sizeof *items);
    for (int64_t len = capacity; len >= 1; len--)
        for (int64_t i = 0; i < n; i++) {
            if (lengths[i] != len) continue;
            int64_t best = -1;
            for (int64_t r = 0; r < rows; r++)
                if (room[r] >= len && items[r] < max_items && (best < 0 || room[r] < room[best]))
                    best = r;
            if (best < 0) {
                best = rows++;
                room[best] = capacity;
            }
            room[best] -= len;
            items[best]++;
        }
    free(room);
    free(items);
    return rows;
}

static void check(const char *name, const int32_t *lengths, int64_t n, int64_t capacity,
                  int max_items, const PackedRows *p)
{
    char *seen = xcalloc((size_t)n, 1);
    cr_assert_eq(p->first[0], 0, "%s", name);
    cr_assert_eq(p->first[p->n_rows], n, "%s", name);
    int64_t last_first = -1;
    for (int64_t r = 0; r < p->n_rows; r++) {
        int64_t sum = 0, last = -1;
        cr_assert(p->first[r + 1] > p->first[r], "%s: an empty row", name);
        cr_assert(p->first[r + 1] - p->first[r] <= max_items, "%s: too many in a row", name);
        for (int64_t k = p->first[r]; k < p->first[r + 1]; k++) {
            int64_t i = p->items[k];
            cr_assert(i > last && i < n && !seen[i], "%s: item %lld", name, (long long)i);
            last = i;
            seen[i] = 1;
            sum += lengths[i];
        }
        cr_assert(sum <= capacity, "%s: row of %lld", name, (long long)sum);
        cr_assert(p->items[p->first[r]] > last_first, "%s: rows out of order", name);
        last_first = p->items[p->first[r]];
    }
    free(seen);
}

Test(pack, equals_the_plain_version)
{
    static const struct {
        const char *name;
        int64_t n, capacity;
        int lo, hi, max_items;
    } cases[] = {
        {"nothing", 0, 10, 1, 1, 256},
        {"one", 1, 10, 10, 10, 256},
        {"ones", 100, 7, 1, 1, 256},
        {"full ones", 50, 64, 64, 64, 256},
        {"short and long", 500, 64, 1, 64, 256},
        {"halves", 300, 63, 31, 33, 256},
        {"few allowed", 500, 100, 1, 20, 3},
        {"one allowed", 40, 100, 1, 20, 1},
        {"words of 64", 700, 4096, 1, 4096, 256},
        {"wide", 400, 300000, 1, 200000, 256},
        {"capacity 1", 5, 1, 1, 1, 256},
    };
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++)
        for (uint64_t seed = 0; seed < 5; seed++) {
            int64_t n = cases[c].n;
            int32_t *len = xmalloc((size_t)(n + 1) * sizeof *len);
            for (int64_t i = 0; i < n; i++)
                len[i] =
                    cases[c].lo + (int32_t)rng_below(seed, (uint64_t)i,
                                                     (uint64_t)(cases[c].hi - cases[c].lo + 1));
            PackedRows p;
            pack_best_fit(&p, len, n, cases[c].capacity, cases[c].max_items);
            check(cases[c].name, len, n, cases[c].capacity, cases[c].max_items, &p);
            if (cases[c].capacity <= 4096)
                cr_expect_eq(p.n_rows, plain_rows(len, n, cases[c].capacity, cases[c].max_items),
                             "%s", cases[c].name);
            packed_rows_clear(&p);
            free(len);
        }
}

/* Lengths as chats and instructions have them (log-normal): nearly no room is wasted. */
Test(pack, fill)
{
    int64_t n = 20000, sum = 0;
    int32_t *len = xmalloc((size_t)n * sizeof *len);
    for (int64_t i = 0; i < n; i++) {
        double u = 0;
        for (int k = 0; k < 12; k++)
            u += rng_uniform(7, (uint64_t)(12 * i + k));
        double l = 150 * __builtin_exp(0.8 * (u - 6));
        len[i] = l < 8 ? 8 : l > 2048 ? 2048 : (int32_t)l;
        sum += len[i];
    }
    PackedRows p;
    pack_best_fit(&p, len, n, 2048, PACK_MAX_DOCUMENTS);
    check("fill", len, n, 2048, PACK_MAX_DOCUMENTS, &p);
    double fill = (double)sum / (double)(p.n_rows * 2048);
    cr_expect(fill > 0.98, "fill %.4f", fill);
    packed_rows_clear(&p);
    free(len);
}
