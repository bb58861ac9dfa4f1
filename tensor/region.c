/* Blocks in address order around one gap; the holes of each side of it in address order, too. */
#include "tensor/region.h"

#include "base/err.h"
#include "base/str.h"

#include <stdlib.h>

struct RegionBlock {
    size_t offset, bytes;
    bool free;
    RegionSide side;
    RegionBlock *prev, *next; /* by address, all blocks */
    RegionBlock *prev_free,
        *next_free; /* by address, holes of a side; next_free also links spares */
};

struct Region {
    RegionBlock *gap;      /* free, perhaps empty; low blocks lie before it, high ones behind */
    RegionBlock *holes[2]; /* of each side */
    RegionBlock *spare;    /* block structs not in use, so that a step allocates none */
    size_t bytes, least_gap;
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
        r->holes[b->side] = b->next_free;
    if (b->next_free) b->next_free->prev_free = b->prev_free;
    b->prev_free = b->next_free = NULL;
}

static void link_free(Region *r, RegionBlock *b)
{
    RegionBlock *prev = NULL, *next = r->holes[b->side];
    while (next && next->offset < b->offset) {
        prev = next;
        next = next->next_free;
    }
    b->prev_free = prev;
    b->next_free = next;
    if (prev)
        prev->next_free = b;
    else
        r->holes[b->side] = b;
    if (next) next->prev_free = b;
}

static void insert_after(RegionBlock *a, RegionBlock *b)
{
    b->prev = a;
    b->next = a->next;
    if (a->next) a->next->prev = b;
    a->next = b;
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
    r->gap = block_new(r);
    r->gap->bytes = r->bytes = r->least_gap = bytes / REGION_ALIGN * REGION_ALIGN;
    r->gap->free = true;
    return r;
}

static void free_blocks(RegionBlock *b)
{
    for (RegionBlock *next; b; b = next) {
        next = b->next;
        free(b);
    }
}

void region_free(Region *r)
{
    if (!r) return;
    for (RegionBlock *b = r->gap->prev, *prev; b; b = prev) {
        prev = b->prev;
        free(b);
    }
    free_blocks(r->gap);
    for (RegionBlock *b = r->spare, *next; b; b = next) {
        next = b->next_free;
        free(b);
    }
    free(r);
}

/* A block of the first or last bytes of a hole; the rest stays one. */
static RegionBlock *take_hole(Region *r, RegionBlock *hole, size_t bytes)
{
    if (hole->bytes == bytes) {
        unlink_free(r, hole);
        hole->free = false;
        return hole;
    }
    RegionBlock *b = block_new(r);
    b->side = hole->side;
    b->bytes = bytes;
    hole->bytes -= bytes;
    if (b->side == REGION_HIGH) {
        b->offset = hole->offset + hole->bytes;
        insert_after(hole, b);
        return b;
    }
    b->offset = hole->offset;
    hole->offset += bytes;
    b->prev = hole->prev;
    b->next = hole;
    if (hole->prev) hole->prev->next = b;
    hole->prev = b;
    return b;
}

static RegionBlock *best_hole(const Region *r, size_t bytes, RegionSide side)
{
    RegionBlock *best = NULL;
    for (RegionBlock *b = r->holes[side]; b; b = b->next_free)
        if (b->bytes >= bytes && (!best || b->bytes < best->bytes)) best = b;
    return best;
}

RegionBlock *region_take(Region *r, size_t bytes, RegionSide side)
{
    if (bytes > SIZE_MAX - REGION_ALIGN) return NULL;
    bytes = bytes ? (bytes + REGION_ALIGN - 1) / REGION_ALIGN * REGION_ALIGN : REGION_ALIGN;
    RegionBlock *hole = best_hole(r, bytes, side);
    if (hole) return take_hole(r, hole, bytes);
    if (r->gap->bytes < bytes) {
        hole = best_hole(r, bytes, side == REGION_LOW ? REGION_HIGH : REGION_LOW);
        return hole ? take_hole(r, hole, bytes) : NULL;
    }
    RegionBlock *b = block_new(r);
    b->side = side;
    b->bytes = bytes;
    r->gap->bytes -= bytes;
    if (r->gap->bytes < r->least_gap) r->least_gap = r->gap->bytes;
    if (side == REGION_HIGH) {
        b->offset = r->gap->offset + r->gap->bytes;
        insert_after(r->gap, b);
        return b;
    }
    b->offset = r->gap->offset;
    r->gap->offset += bytes;
    b->next = r->gap;
    b->prev = r->gap->prev;
    if (b->prev) b->prev->next = b;
    r->gap->prev = b;
    return b;
}

void region_give(Region *r, RegionBlock *b)
{
    ASSERT(!b->free, "block at %zu given back twice", b->offset);
    b->free = true;
    RegionBlock *next = b->next, *prev = b->prev;
    if (next && next->free && next != r->gap) {
        unlink_free(r, next);
        absorb(r, b, next);
    }
    if (prev && prev->free && prev != r->gap) {
        unlink_free(r, prev);
        absorb(r, prev, b);
        b = prev;
    }
    if (b->next == r->gap) { /* its bytes are the gap's */
        r->gap->offset = b->offset;
        r->gap->bytes += b->bytes;
        r->gap->prev = b->prev;
        if (b->prev) b->prev->next = r->gap;
        b->next_free = r->spare;
        r->spare = b;
    } else if (b->prev == r->gap) {
        absorb(r, r->gap, b);
    } else {
        link_free(r, b);
    }
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
    size_t most = r->gap->bytes;
    for (int side = 0; side < 2; side++)
        for (const RegionBlock *b = r->holes[side]; b; b = b->next_free)
            if (b->bytes > most) most = b->bytes;
    return most;
}

size_t region_extent(const Region *r)
{
    return r->bytes - r->least_gap;
}
