/* Arena memory: zeroed, aligned, apart, and the same blocks again after a reset. */
#include "base/arena.h"
#include "base/str.h"

#include <criterion/criterion.h>
#include <signal.h>
#include <string.h>

Test(arena, zeroed_aligned_and_apart)
{
    Arena *a = arena_new(512);
    unsigned char *p[200];
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 200; i++) {
            size_t n = (size_t)(i * 37 % 700);
            p[i] = arena_alloc(a, n);
            cr_assert_eq((uintptr_t)p[i] % 16, 0);
            for (size_t k = 0; k < n; k++)
                cr_assert_eq(p[i][k], 0);
            memset(p[i], i + 1, n);
        }
        for (int i = 0; i < 200; i++)
            for (size_t k = 0; k < (size_t)(i * 37 % 700); k++)
                cr_assert_eq(p[i][k], (unsigned char)(i + 1), "allocation %d was overwritten", i);
        arena_reset(a);
    }
    arena_free(a);
    arena_free(NULL);
}

Test(arena, reset_keeps_the_blocks)
{
    Arena *a = arena_new(256);
    void *first[20];
    for (int i = 0; i < 20; i++)
        first[i] = arena_alloc(a, 100);
    for (int round = 0; round < 2; round++) {
        arena_reset(a);
        for (int i = 0; i < 20; i++)
            cr_assert_eq(arena_alloc(a, 100), first[i], "round %d, %d", round, i);
    }
    arena_free(a);
}

Test(arena, marks_nest)
{
    Arena *a = arena_new(256);
    char *kept = arena_alloc(a, 8);
    strcpy(kept, "kept");
    ArenaMark outer = arena_mark(a);
    void *x = arena_alloc(a, 1000);
    ArenaMark inner = arena_mark(a);
    void *y = arena_alloc(a, 1000);
    arena_reset_to(a, inner);
    cr_assert_eq(arena_alloc(a, 1000), y);
    arena_reset_to(a, outer);
    cr_assert_eq(arena_alloc(a, 1000), x);
    cr_assert_str_eq(kept, "kept");
    arena_free(a);
}

Test(arena, a_stale_mark_is_the_programmers_error, .signal = SIGABRT)
{
    Arena *a = arena_new(256);
    arena_alloc(a, 64);
    ArenaMark m = arena_mark(a);
    arena_reset(a);
    arena_reset_to(a, m);
}
