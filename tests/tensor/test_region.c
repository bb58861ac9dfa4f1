/* The allocator against a map of bytes: nothing overlaps, freed memory comes together again, and the same
 * calls give the same answers. */
#include "base/rng.h"
#include "base/str.h"
#include "tensor/region.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

enum { UNITS = 400, LIVE = 60 };

static RegionSide side_of(uint64_t i)
{
    return rng_below(99, i, 2) ? REGION_HIGH : REGION_LOW;
}

Test(region, random_calls_never_overlap_and_everything_comes_back)
{
    for (uint64_t key = 1; key <= 20; key++) {
        Region *r = region_new((size_t)UNITS * REGION_ALIGN);
        char map[UNITS] = {0};
        RegionBlock *live[LIVE] = {0};
        for (uint64_t i = 0; i < 3000; i++) {
            int slot = (int)rng_below(key, 2 * i, LIVE);
            if (live[slot]) {
                size_t at = region_offset(live[slot]) / REGION_ALIGN;
                size_t n = region_block_bytes(live[slot]) / REGION_ALIGN;
                memset(map + at, 0, n);
                region_give(r, live[slot]);
                live[slot] = NULL;
                continue;
            }
            size_t bytes = (size_t)rng_below(key, 2 * i + 1, 20 * REGION_ALIGN);
            live[slot] = region_take(r, bytes, side_of(i));
            if (!live[slot]) {
                cr_assert_lt(region_largest_free(r), bytes, "refused although it fits");
                continue;
            }
            size_t at = region_offset(live[slot]) / REGION_ALIGN;
            size_t n = region_block_bytes(live[slot]) / REGION_ALIGN;
            cr_assert_geq(n * REGION_ALIGN, bytes);
            for (size_t j = at; j < at + n; j++) {
                cr_assert_eq(map[j], 0, "unit %zu has two owners", j);
                map[j] = 1;
            }
        }
        for (int i = 0; i < LIVE; i++)
            if (live[i]) region_give(r, live[i]);
        cr_assert_eq(region_largest_free(r), (size_t)UNITS * REGION_ALIGN, "memory is in pieces");
        region_free(r);
    }
}

static void expect_best_fit(RegionSide side)
{
    Region *r = region_new(100 * REGION_ALIGN);
    RegionBlock *a = region_take(r, 10 * REGION_ALIGN, side), *hold1 = region_take(r, 1, side);
    RegionBlock *b = region_take(r, 4 * REGION_ALIGN, side), *hold2 = region_take(r, 1, side);
    size_t at_b = region_offset(b);
    region_give(r, a);
    region_give(r, b);
    RegionBlock *c = region_take(r, 3 * REGION_ALIGN, side);
    cr_assert_eq(region_offset(c), at_b + (side == REGION_HIGH ? REGION_ALIGN : 0));
    cr_assert_null(region_take(r, 1000 * REGION_ALIGN, side));
    cr_assert_null(region_take(r, SIZE_MAX, side));
    region_give(r, c);
    region_give(r, hold1);
    region_give(r, hold2);
    region_free(r);
}

Test(region, takes_the_smallest_block_that_fits)
{
    expect_best_fit(REGION_LOW);
    expect_best_fit(REGION_HIGH);
}

/* Each side has its end, and the other's holes only when nothing else is left. */
Test(region, sides_stay_apart)
{
    Region *r = region_new(100 * REGION_ALIGN);
    RegionBlock *stays = region_take(r, 10 * REGION_ALIGN, REGION_LOW);
    RegionBlock *goes = region_take(r, 20 * REGION_ALIGN, REGION_HIGH);
    RegionBlock *stays_too = region_take(r, 10 * REGION_ALIGN, REGION_LOW);
    cr_expect_eq(region_offset(stays), 0);
    cr_expect_eq(region_offset(stays_too), 10 * REGION_ALIGN);
    cr_expect_eq(region_offset(goes), 80 * REGION_ALIGN);
    region_give(r, stays);
    RegionBlock *high = region_take(r, 10 * REGION_ALIGN, REGION_HIGH);
    cr_expect_eq(region_offset(high), 70 * REGION_ALIGN, "not into the low hole");
    cr_expect_eq(region_extent(r), 50 * REGION_ALIGN);
    RegionBlock *rest = region_take(r, 50 * REGION_ALIGN, REGION_LOW);
    RegionBlock *other = region_take(r, 10 * REGION_ALIGN, REGION_HIGH);
    cr_assert_not_null(other);
    cr_expect_eq(region_offset(other), 0, "the other side's hole is the last resort");
    cr_expect_null(region_take(r, 1, REGION_LOW));
    RegionBlock *all[] = {goes, stays_too, high, rest, other};
    for (int i = 0; i < 5; i++)
        region_give(r, all[i]);
    cr_expect_eq(region_largest_free(r), 100 * REGION_ALIGN);
    region_free(r);
}

/* The same calls are answered alike in regions of any size that holds them: what a plan relies on. */
Test(region, answers_do_not_depend_on_its_size)
{
    for (uint64_t key = 1; key <= 20; key++) {
        size_t extent = 0;
        for (int again = 0; again < 2; again++) {
            Region *r = region_new(again ? extent : (size_t)1 << 40);
            RegionBlock *live[LIVE] = {0};
            for (uint64_t i = 0; i < 2000; i++) {
                int slot = (int)rng_below(key, 2 * i, LIVE);
                if (live[slot]) region_give(r, live[slot]);
                bool take = !live[slot];
                live[slot] = NULL;
                if (!take) continue;
                live[slot] = region_take(r, (size_t)rng_below(key, 2 * i + 1, 20 * REGION_ALIGN),
                                         side_of(i));
                cr_assert_not_null(live[slot], "refused in a region of the extent");
            }
            if (again) cr_expect_eq(region_extent(r), extent);
            extent = region_extent(r);
            for (int i = 0; i < LIVE; i++)
                if (live[i]) region_give(r, live[i]);
            region_free(r);
        }
    }
}
