/* The allocator: one region, best fit, blocks coalesced on free.  What it answers depends on nothing but
 * the order of calls, so a dry run on the plan backend predicts a real run to the byte. */
#pragma once

#include <stddef.h>

#define REGION_ALIGN 256

typedef struct Region Region;
typedef struct RegionBlock RegionBlock;

/* Manages [0, bytes) as offsets; never touches the memory itself. */
Region *region_new(size_t bytes);
void region_free(Region *r);
/* Rounds up to REGION_ALIGN; the smallest free block that fits, ties to the lowest offset; the free end of the
 * region only when no hole fits, so that the answers do not depend on the region's size.  NULL: full. */
RegionBlock *region_take(Region *r, size_t bytes);
void region_give(Region *r, RegionBlock *b);
size_t region_offset(const RegionBlock *b);
size_t region_block_bytes(const RegionBlock *b); /* rounded */
size_t region_largest_free(const Region *r);
size_t region_extent(
    const Region *r); /* the highest end of any block so far: what the calls need */
