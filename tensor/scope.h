/* Scope: the owner of what ops return, until it ends.  Scopes nest; one ends by giving one tensor to
 * its parent and dropping the rest (the tape holds what backward needs). */
#pragma once

#include "base/arena.h"
#include "tensor/device.h"

typedef struct Scope Scope;

/* A root scope; handles come from `arena`, which must outlive it. */
Scope *scope_new(Device *d, Arena *arena);
void scope_free(Scope *s); /* drops what is left */

/* New tensor handles in the arena, with storage owned by the current (innermost) scope.  ld 0: dense. */
Tensor *scope_tensor(Scope *s, DType dtype, int n_dims, const int64_t *shape, int64_t ld,
                     MemCategory category);
/* A handle of its own, and a reference, for a view of the same storage. */
Tensor *scope_view(Scope *s, const Tensor *of, size_t offset_bytes, int n_dims,
                   const int64_t *shape, int64_t ld);

void scope_push(Scope *s);
/* Ends the innermost scope.  `keep` (or NULL) passes to the parent; the others lose their storage (their
 * handles stay valid to look at: shape, needs_grad). */
void scope_pop(Scope *s, Tensor *keep);
/* Ends a temporary early. */
void scope_drop(Scope *s, Tensor *t);
