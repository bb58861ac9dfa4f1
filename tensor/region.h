/* The allocator: one region, filled from both ends, best fit, blocks coalesced on free.  What it answers depends on
 * nothing but the order of calls, so a dry run on the plan backend predicts a real run to the byte.
 *
 * Two ends, because blocks that stay long among blocks that go soon leave holes that nothing fits: each kind has its own,
 * and between them lies one gap. */
#pragma once

#include <stddef.h>

#define REGION_ALIGN 256

typedef struct Region Region;
typedef struct RegionBlock RegionBlock;

/* Manages [0, bytes) as offsets; never touches the memory itself. */
Region *region_new(size_t bytes);
void region_free(Region *r);
typedef enum RegionSide { REGION_LOW, REGION_HIGH } RegionSide;
/* Rounds up to REGION_ALIGN; the smallest hole of its side that fits, ties to the lowest offset, or a piece of the gap; the
 * other side's holes only when the gap is too small, so that the answers do not depend on the region's size.  NULL:
 * full. */
RegionBlock *region_take(Region *r, size_t bytes, RegionSide side);
void region_give(Region *r, RegionBlock *b);
size_t region_offset(const RegionBlock *b);
size_t region_block_bytes(const RegionBlock *b); /* rounded */
size_t region_largest_free(const Region *r);
size_t region_extent(
    const Region *r); /* all but the gap when it was smallest: what the calls need */
