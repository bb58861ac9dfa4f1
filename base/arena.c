/* A chain of blocks, filled front to back.  A reset keeps the blocks; under AddressSanitizer what was
 * freed is poisoned, so that a handle used after its step is found. */
#include "base/arena.h"

#include "base/str.h"

#include <stdlib.h>
#include <string.h>

#if defined(__SANITIZE_ADDRESS__)
#    define HAVE_ASAN 1
#elif defined(__has_feature)
#    if __has_feature(address_sanitizer)
#        define HAVE_ASAN 1
#    endif
#endif
#ifdef HAVE_ASAN
#    include <sanitizer/asan_interface.h>
#else
#    define ASAN_POISON_MEMORY_REGION(p, n)   ((void)(p), (void)(n))
#    define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#endif

enum { ALIGN = 16 };

typedef struct Block {
    struct Block *next;
    size_t cap, used;
    _Alignas(ALIGN) unsigned char data[];
} Block;

struct Arena {
    Block *first, *now;
    size_t block_bytes;
};

static Block *block_new(size_t cap)
{
    if (cap > SIZE_MAX / 2) panic("arena: a block of %zu bytes", cap);
    Block *b = xmalloc(sizeof *b + cap); /* malloc aligns to 16 where lorac runs */
    b->next = NULL;
    b->cap = cap;
    b->used = 0;
    ASAN_POISON_MEMORY_REGION(b->data, cap);
    return b;
}

Arena *arena_new(size_t block_bytes)
{
    Arena *a = xmalloc(sizeof *a);
    a->block_bytes = block_bytes < 256 ? 256 : block_bytes;
    a->first = a->now = block_new(a->block_bytes);
    return a;
}

void arena_free(Arena *a)
{
    if (!a) return;
    for (Block *b = a->first, *next; b; b = next) {
        next = b->next;
        ASAN_UNPOISON_MEMORY_REGION(b->data, b->cap);
        free(b);
    }
    free(a);
}

void *arena_alloc(Arena *a, size_t bytes)
{
    if (bytes > SIZE_MAX / 4) panic("arena: %zu bytes asked", bytes);
    size_t n = (bytes + ALIGN - 1) / ALIGN * ALIGN;
    if (n == 0) n = ALIGN; /* two allocations never share an address */
    while (a->now->cap - a->now->used < n) {
        Block *b = a->now;
        /* A kept block that is too small is passed over until the next reset; a new one goes in
         * before it. */
        if (!b->next || b->next->cap < n) {
            Block *fresh = block_new(n > a->block_bytes ? n : a->block_bytes);
            fresh->next = b->next;
            b->next = fresh;
        }
        a->now = b->next;
        a->now->used = 0;
    }
    void *p = a->now->data + a->now->used;
    a->now->used += n;
    ASAN_UNPOISON_MEMORY_REGION(p, bytes);
    return memset(p, 0, bytes);
}

ArenaMark arena_mark(const Arena *a)
{
    return (ArenaMark){a->now, a->now->used};
}

void arena_reset_to(Arena *a, ArenaMark m)
{
    Block *b = m.block;
    ASSERT(m.used <= b->used, "arena: a mark at %zu of %zu used, already reset", m.used, b->used);
    for (Block *later = b->next; later; later = later->next) {
        ASAN_POISON_MEMORY_REGION(later->data, later->cap);
        later->used = 0;
    }
    ASAN_POISON_MEMORY_REGION(b->data + m.used, b->cap - m.used);
    b->used = m.used;
    a->now = b;
}

void arena_reset(Arena *a)
{
    arena_reset_to(a, (ArenaMark){a->first, 0});
}
