/* Blocks of the region in address order, and among them the free ones in address order, too. */
#include "tensor/region.h"

#include "base/str.h"

#include <stdlib.h>

struct RegionBlock {
    size_t offset, bytes;
    bool free;
    RegionBlock *prev, *next;           /* by address, all blocks */
    RegionBlock *prev_free, *next_free; /* by address, free blocks; next_free also links spares */
};

struct Region {
    RegionBlock *first_free;
    RegionBlock *first;
    RegionBlock *spare; /* block structs not in use, so that a step allocates none */
    size_t extent;      /* highest end of a block so far */
};

static RegionBlock *block_new(Region *r)
{
    RegionBlock *b = r->spare;
    if (!b) return xcalloc(1, sizeof *b);
    r->spare = b->next_free;
    *b = (RegionBlock){0};
    return b;
}

static void unlink_free(Region *r, RegionBlock *b)
{
    if (b->prev_free)
        b->prev_free->next_free = b->next_free;
    else
        r->first_free = b->next_free;
    if (b->next_free) b->next_free->prev_free = b->prev_free;
    b->prev_free = b->next_free = NULL;
}

static void link_free(Region *r, RegionBlock *b)
{
    RegionBlock *prev = NULL, *next = r->first_free;
    while (next && next->offset < b->offset) {
        prev = next;
        next = next->next_free;
    }
    b->prev_free = prev;
    b->next_free = next;
    if (prev)
        prev->next_free = b;
    else
        r->first_free = b;
    if (next) next->prev_free = b;
}

/* Takes `b`, which follows `a` in memory, into `a`. */
static void absorb(Region *r, RegionBlock *a, RegionBlock *b)
{
    a->bytes += b->bytes;
    a->next = b->next;
    if (b->next) b->next->prev = a;
    b->next_free = r->spare;
    r->spare = b;
}

Region *region_new(size_t bytes)
{
    Region *r = xcalloc(1, sizeof *r);
    RegionBlock *b = block_new(r);
    b->bytes = bytes / REGION_ALIGN * REGION_ALIGN;
    b->free = true;
    r->first = r->first_free = b;
    return r;
}

void region_free(Region *r)
{
    if (!r) return;
    for (RegionBlock *b = r->first, *next; b; b = next) {
        next = b->next;
        free(b);
    }
    for (RegionBlock *b = r->spare, *next; b; b = next) {
        next = b->next_free;
        free(b);
    }
    free(r);
}

RegionBlock *region_take(Region *r, size_t bytes)
{
    if (bytes > SIZE_MAX - REGION_ALIGN) return NULL;
    bytes = bytes ? (bytes + REGION_ALIGN - 1) / REGION_ALIGN * REGION_ALIGN : REGION_ALIGN;
    RegionBlock *best = NULL;
    for (RegionBlock *b = r->first_free; b; b = b->next_free)
        if (b->bytes >= bytes && (!best || (b->next && b->bytes < best->bytes))) best = b;
    if (!best) return NULL;
    unlink_free(r, best);
    best->free = false;
    if (best->bytes > bytes) {
        RegionBlock *rest = block_new(r);
        rest->offset = best->offset + bytes;
        rest->bytes = best->bytes - bytes;
        rest->free = true;
        rest->prev = best;
        rest->next = best->next;
        if (best->next) best->next->prev = rest;
        best->next = rest;
        best->bytes = bytes;
        link_free(r, rest);
    }
    if (best->offset + best->bytes > r->extent) r->extent = best->offset + best->bytes;
    return best;
}

void region_give(Region *r, RegionBlock *b)
{
    ASSERT(!b->free, "block at %zu given back twice", b->offset);
    b->free = true;
    if (b->next && b->next->free) {
        unlink_free(r, b->next);
        absorb(r, b, b->next);
    }
    if (b->prev && b->prev->free) {
        absorb(r, b->prev, b);
        return; /* the block before stands in the free list already, at the same place */
    }
    link_free(r, b);
}

size_t region_offset(const RegionBlock *b)
{
    return b->offset;
}

size_t region_block_bytes(const RegionBlock *b)
{
    return b->bytes;
}

size_t region_largest_free(const Region *r)
{
    size_t most = 0;
    for (const RegionBlock *b = r->first_free; b; b = b->next_free)
        if (b->bytes > most) most = b->bytes;
    return most;
}

size_t region_extent(const Region *r)
{
    return r->extent;
}
