/* Best-fit decreasing.  Open rows hang in lists by the room they have left; a tree of bits over the rooms
 * finds the smallest that is large enough in one step per 64-fold of the capacity. */
#include "data/pack.h"

#include "base/str.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_LEVELS = 6 }; /* 64^6 > 2^31 */

/* A set of numbers in [0, size). */
typedef struct BitTree {
    uint64_t *levels[MAX_LEVELS];
    int64_t n_words[MAX_LEVELS];
    int n_levels;
} BitTree;

static void tree_init(BitTree *t, int64_t size)
{
    t->n_levels = 0;
    do {
        ASSERT(t->n_levels < MAX_LEVELS, "size %lld", (long long)size);
        size = (size + 63) / 64;
        t->n_words[t->n_levels] = size;
        t->levels[t->n_levels++] = xcalloc((size_t)size, sizeof(uint64_t));
    } while (size > 1);
}

static void tree_clear(BitTree *t)
{
    for (int i = 0; i < t->n_levels; i++)
        free(t->levels[i]);
}

static void tree_add(BitTree *t, int64_t x)
{
    for (int i = 0; i < t->n_levels; i++, x /= 64)
        t->levels[i][x / 64] |= 1ull << (x % 64);
}

static void tree_remove(BitTree *t, int64_t x)
{
    for (int i = 0; i < t->n_levels; i++, x /= 64) {
        t->levels[i][x / 64] &= ~(1ull << (x % 64));
        if (t->levels[i][x / 64]) return;
    }
}

/* The smallest member >= x, or -1. */
static int64_t tree_find(const BitTree *t, int64_t x)
{
    for (int i = 0; i < t->n_levels && x / 64 < t->n_words[i]; i++) {
        uint64_t word = t->levels[i][x / 64] & (~0ull << (x % 64));
        if (word) {
            x = x / 64 * 64 + __builtin_ctzll(word);
            while (i-- > 0)
                x = x * 64 + __builtin_ctzll(t->levels[i][x]);
            return x;
        }
        x = x / 64 + 1; /* the words behind this one: a level higher */
    }
    return -1;
}

typedef struct Bins {
    int64_t n, cap;
    int64_t *next; /* the next row with as much room, or -1 */
    int32_t *count;
} Bins;

static int64_t bin_add(Bins *b)
{
    if (b->n == b->cap) {
        b->cap = b->cap ? 2 * b->cap : 1024;
        b->next = xrealloc(b->next, (size_t)b->cap * sizeof *b->next);
        b->count = xrealloc(b->count, (size_t)b->cap * sizeof *b->count);
    }
    b->count[b->n] = 0;
    return b->n++;
}

/* order[]: the items from the longest to the shortest, equal ones as they came. */
static int64_t *by_length(const int32_t *lengths, int64_t n, int64_t capacity)
{
    int64_t *at = xcalloc((size_t)capacity + 2, sizeof *at);
    int64_t *order = xmalloc((size_t)n * sizeof *order);
    for (int64_t i = 0; i < n; i++) {
        ASSERT(lengths[i] >= 1 && lengths[i] <= capacity, "length %d, capacity %lld",
               (int)lengths[i], (long long)capacity);
        at[capacity - lengths[i] + 1]++;
    }
    for (int64_t c = 1; c <= capacity; c++)
        at[c] += at[c - 1];
    for (int64_t i = 0; i < n; i++)
        order[at[capacity - lengths[i]]++] = i;
    free(at);
    return order;
}

/* Rows renumbered by their first item, and their items listed. */
static void list_rows(PackedRows *out, const int64_t *bin_of, int64_t n, const Bins *bins)
{
    int64_t *number = xmalloc((size_t)bins->n * sizeof *number);
    out->n_rows = bins->n;
    out->first = xcalloc((size_t)bins->n + 1, sizeof *out->first);
    out->items = xmalloc((size_t)n * sizeof *out->items);
    int64_t seen = 0;
    for (int64_t b = 0; b < bins->n; b++)
        number[b] = -1;
    for (int64_t i = 0; i < n; i++)
        if (number[bin_of[i]] < 0) {
            number[bin_of[i]] = seen++;
            out->first[seen] = bins->count[bin_of[i]];
        }
    for (int64_t r = 0; r < bins->n; r++)
        out->first[r + 1] += out->first[r];
    int64_t *at = xmalloc((size_t)bins->n * sizeof *at);
    memcpy(at, out->first, (size_t)bins->n * sizeof *at);
    for (int64_t i = 0; i < n; i++)
        out->items[at[number[bin_of[i]]]++] = i;
    free(at);
    free(number);
}

void pack_best_fit(PackedRows *out, const int32_t *lengths, int64_t n, int64_t capacity,
                   int max_items)
{
    BitTree rooms;
    Bins bins = {0};
    tree_init(&rooms, capacity + 1);
    int64_t *head = xmalloc(((size_t)capacity + 1) * sizeof *head); /* by room; -1: none */
    for (int64_t c = 0; c <= capacity; c++)
        head[c] = -1;
    int64_t *order = by_length(lengths, n, capacity);
    int64_t *bin_of = xmalloc((size_t)n * sizeof *bin_of);
    for (int64_t k = 0; k < n; k++) {
        int64_t i = order[k], len = lengths[i];
        int64_t room = tree_find(&rooms, len), bin;
        if (room < 0) {
            bin = bin_add(&bins);
            room = capacity;
        } else {
            bin = head[room];
            head[room] = bins.next[bin];
            if (head[room] < 0) tree_remove(&rooms, room);
        }
        bin_of[i] = bin;
        room -= len;
        if (++bins.count[bin] == max_items || room == 0) continue; /* closed */
        bins.next[bin] = head[room];
        head[room] = bin;
        tree_add(&rooms, room);
    }
    list_rows(out, bin_of, n, &bins);
    free(bin_of);
    free(order);
    free(head);
    free(bins.next);
    free(bins.count);
    tree_clear(&rooms);
}

void packed_rows_clear(PackedRows *p)
{
    free(p->first);
    free(p->items);
    memset(p, 0, sizeof *p);
}
