/* How much of which blocks is kept for backward: the ladder of mixes that train.recompute auto climbs until a run fits. */
#pragma once

#include "base/str.h"
#include "model/llama.h"

enum {
    RECOMPUTE_AUTO = RECOMPUTE_LEVELS
}; /* of train.recompute, beside the levels of autograd/tape.h */
const char *recompute_name(int level); /* "none", ..., "auto"; NULL behind the last */

/* Blocks at `level`, but the first n_more one level above: their backward comes last, when the others' memory is free
 * again.  The last block is dropped no further than `selective`. */
typedef struct RecomputeMix {
    Recompute level;
    int64_t n_more;
} RecomputeMix;

void recompute_apply(Llama *m, RecomputeMix mix);
/* "full", or "full in blocks 0 to 11, attention in the other 20" */
void recompute_mix_text(StrBuf *b, RecomputeMix mix, int64_t n_layers);

/* Bytes that a run needs with a mix; SIZE_MAX where that cannot be told. */
typedef size_t RecomputeNeed(void *ud, RecomputeMix mix);
/* The fastest mix that fits, where `none` does not: each GiB costs more time the higher the level, so only neighbours are
 * mixed.  `full` where nothing does.  *need: its bytes. */
RecomputeMix recompute_fit(size_t *need, int64_t n_layers, size_t bytes, RecomputeNeed *fn,
                           void *ud);
