/* Puts documents into rows of equal capacity, whole: best fit, the longest first (best-fit decreasing:
 * Johnson 1973; at most 11/9 of the fewest rows possible plus one, in practice within a row or two).
 *
 * Nothing is dropped or cut.  How many rows there are depends on the lengths alone, not on their order. */
#pragma once

#include <stdint.h>

/* Most documents in one row: what the attention kernels plan for. */
enum { PACK_MAX_DOCUMENTS = 256 };

/* Rows in the order of their first item; in a row the items in rising order. */
typedef struct PackedRows {
    int64_t n_rows;
    int64_t *first; /* (n_rows + 1) into items */
    int64_t *items; /* (n) indices of lengths[] */
} PackedRows;

/* 1 <= lengths[i] <= capacity.  O(n log capacity), in practice O(n). */
void pack_best_fit(PackedRows *out, const int32_t *lengths, int64_t n, int64_t capacity,
                   int max_items);
void packed_rows_clear(PackedRows *p);
