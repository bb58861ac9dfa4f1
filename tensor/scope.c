/* A stack of tensors with marks: a scope is what lies above its mark. */
#include "tensor/scope.h"

#include "base/str.h"

#include <stdlib.h>

struct Scope {
    Device *dev;
    Arena *arena;
    Tensor **owned;
    int n, cap;
    int *marks;
    int n_marks, cap_marks;
};

Scope *scope_new(Device *d, Arena *arena)
{
    Scope *s = xcalloc(1, sizeof *s);
    s->dev = d;
    s->arena = arena;
    return s;
}

static void own(Scope *s, Tensor *t)
{
    if (s->n == s->cap) {
        s->cap = s->cap ? 2 * s->cap : 256;
        s->owned = xrealloc(s->owned, (size_t)s->cap * sizeof *s->owned);
    }
    s->owned[s->n++] = t;
}

static void drop_above(Scope *s, int mark)
{
    while (s->n > mark) {
        Tensor *t = s->owned[--s->n];
        if (!t) continue;
        storage_unref(t->storage);
        t->storage = NULL;
    }
}

void scope_free(Scope *s)
{
    if (!s) return;
    drop_above(s, 0);
    free(s->owned);
    free(s->marks);
    free(s);
}

Tensor *scope_tensor(Scope *s, DType dtype, int n_dims, const int64_t *shape, int64_t ld,
                     MemCategory category)
{
    Tensor *t = arena_alloc(s->arena, sizeof *t);
    *t = tensor_shape(dtype, n_dims, shape);
    if (ld) {
        ASSERT(n_dims == 2 && ld >= shape[1], "pitch %lld", (long long)ld);
        t->ld = ld;
    }
    t->storage = storage_new(s->dev, tensor_bytes(t), category);
    own(s, t);
    return t;
}

Tensor *scope_view(Scope *s, const Tensor *of, size_t offset_bytes, int n_dims,
                   const int64_t *shape, int64_t ld)
{
    Tensor *t = arena_alloc(s->arena, sizeof *t);
    *t = tensor_shape(of->dtype, n_dims, shape);
    if (ld) t->ld = ld;
    ASSERT(of->storage, "view of a dropped tensor");
    t->storage = of->storage;
    t->offset = of->offset + offset_bytes;
    storage_ref(t->storage);
    own(s, t);
    return t;
}

void scope_push(Scope *s)
{
    if (s->n_marks == s->cap_marks) {
        s->cap_marks = s->cap_marks ? 2 * s->cap_marks : 16;
        s->marks = xrealloc(s->marks, (size_t)s->cap_marks * sizeof *s->marks);
    }
    s->marks[s->n_marks++] = s->n;
}

void scope_pop(Scope *s, Tensor *keep)
{
    ASSERT(s->n_marks > 0, "no scope is open");
    int mark = s->marks[--s->n_marks];
    bool kept = false;
    for (int i = mark; i < s->n && keep; i++) {
        if (s->owned[i] != keep) continue;
        s->owned[i] = NULL;
        kept = true;
    }
    drop_above(s, mark);
    if (kept) own(s, keep);
}

void scope_drop(Scope *s, Tensor *t)
{
    for (int i = s->n - 1; i >= 0; i--) {
        if (s->owned[i] != t) continue;
        s->owned[i] = NULL;
        storage_unref(t->storage);
        t->storage = NULL;
        return;
    }
    ASSERT(false, "%s does not belong to a scope", t->name ? t->name : "tensor");
}
