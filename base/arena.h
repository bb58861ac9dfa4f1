/* Host memory that is freed all at once: a step's tensor handles and tape nodes.  Blocks grow and are
 * kept by arena_reset, so that a step asks the system for nothing after the first. */
#pragma once

#include <stddef.h>

typedef struct Arena Arena;

typedef struct ArenaMark {
    void *block;
    size_t used;
} ArenaMark;

Arena *arena_new(size_t block_bytes);
void arena_free(Arena *a);
void *arena_alloc(Arena *a, size_t bytes); /* zeroed, aligned to 16 */
ArenaMark arena_mark(const Arena *a);
void arena_reset_to(Arena *a, ArenaMark m); /* what was allocated after the mark is gone */
void arena_reset(Arena *a);
