/* AdamW's states of a flat array: one block of bytes and what lies where in it.  Who updates, saves or moves states asks here;
 * where the bytes live is nobody else's business, and neither is how numbers are written in them. */
#pragma once

#include "kernels/kernels.h"

typedef struct States {
    Tensor bytes; /* (n) u8, dense */
    int64_t numel;
} States;

/* Of numel elements, all 0. */
void states_init(States *s, Device *d, int64_t numel);
void states_clear(States *s);
/* m and v of elements [begin, begin + n): views, without references of their own. */
AdamwStates states_view(const States *s, int64_t begin, int64_t n);
