/* AdamW's states of a flat array: one block of bytes and what lies where in it.  Who updates, saves or moves states asks here;
 * where the bytes live is nobody else's business, and neither is how numbers are written in them.
 *
 * A run is neighbours in one format.  Runs begin at multiples of STATES_BLOCK elements and so do parts that ranks take of
 * an array: a block of 8-bit states never lies in two of them. */
#pragma once

#include "kernels/kernels.h"

typedef enum StatesFormat {
    STATES_FP32,
    STATES_INT8 /* codes and absmax, as AdamwStates */
} StatesFormat;

typedef struct StatesRun {
    int64_t begin, end; /* elements */
    StatesFormat format;
    size_t at; /* of the bytes, its first; m, then v, then the absmax of both */
} StatesRun;

/* The runs of an array; `at` counts from its first. */
typedef struct StatesLayout {
    StatesRun *runs;
    int n;
    size_t bytes;
} StatesLayout;

/* The elements from the last run's end to `end`; joined with it where they are alike. */
void states_layout_add(StatesLayout *l, int64_t end, StatesFormat format);
void states_layout_clear(StatesLayout *l);

typedef struct States {
    Tensor bytes; /* (n) u8, dense */
    StatesLayout layout;
} States;

/* Of the part-th numel elements of `whole`, all 0.  Each part has as many bytes as the largest: ranks plan alike. */
void states_init(States *s, Device *d, const StatesLayout *whole, int64_t numel, int part);
void states_clear(States *s);
/* m and v of elements [begin, begin + n), which lie in one run: views, without references of their own.  `begin` is a
 * multiple of STATES_BLOCK where they are in 8 bits. */
AdamwStates states_view(const States *s, int64_t begin, int64_t n);
/* The run that holds an element. */
const StatesRun *states_run(const States *s, int64_t element);
