#include "cli/bench_matrix.h"

#include "base/str.h"
#include "cli/bench_print.h"

#include <stdlib.h>

/* A row; what is not said is as in the naive way. */
typedef struct Way {
    const char *name;
    bool
        library; /* attention by the library's engine where it takes the shape; a CPU has one attention */
    Recompute recompute;
    QuantType base; /* of LoRA; QUANT_NONE: as it is */
    int zero;       /* several ranks */
    Offload offload;
} Way;

/* The ways of arXiv 2311.03687's dissection: attention, recompute, stages, offloading, quantised bases, and them together. */
static const Way ways[] = {
    {.name = "naive: own attention, nothing recomputed"},
    {.name = "own attention, recompute selective", .recompute = RECOMPUTE_SELECTIVE},
    {.name = "own attention, recompute full", .recompute = RECOMPUTE_FULL},
    {.name = "library's attention", .library = true},
    {.name = "library's attention, recompute selective",
     .library = true,
     .recompute = RECOMPUTE_SELECTIVE},
    {.name = "library's attention, recompute full", .library = true, .recompute = RECOMPUTE_FULL},
    {.name = "ZeRO-2, own attention", .zero = 2},
    {.name = "ZeRO-3, own attention", .zero = 3},
    {.name = "ZeRO-1, library's attention", .library = true, .zero = 1},
    {.name = "ZeRO-2, library's attention", .library = true, .zero = 2},
    {.name = "ZeRO-2, the same, recompute full",
     .library = true,
     .recompute = RECOMPUTE_FULL,
     .zero = 2},
    {.name = "ZeRO-3, library's attention", .library = true, .zero = 3},
    {.name = "ZeRO-3, the same, recompute selective",
     .library = true,
     .recompute = RECOMPUTE_SELECTIVE,
     .zero = 3},
    {.name = "ZeRO-3, the same, recompute full",
     .library = true,
     .recompute = RECOMPUTE_FULL,
     .zero = 3},
    {.name = "library's attention, all offloaded", .library = true, .offload = OFFLOAD_PARAMS},
    {.name = "the same, recompute full",
     .library = true,
     .recompute = RECOMPUTE_FULL,
     .offload = OFFLOAD_PARAMS},
    {.name = "ZeRO-2, optimizer offloaded",
     .library = true,
     .zero = 2,
     .offload = OFFLOAD_OPTIMIZER},
    {.name = "ZeRO-3, optimizer offloaded",
     .library = true,
     .zero = 3,
     .offload = OFFLOAD_OPTIMIZER},
    {.name = "ZeRO-3, all offloaded", .library = true, .zero = 3, .offload = OFFLOAD_PARAMS},
    {.name = "ZeRO-3, all offloaded, recompute full",
     .library = true,
     .recompute = RECOMPUTE_FULL,
     .zero = 3,
     .offload = OFFLOAD_PARAMS},
    {.name = "nf4 base, own attention", .base = QUANT_NF4},
    {.name = "nf4 base, library's attention", .library = true, .base = QUANT_NF4},
    {.name = "nf4 base, the same, recompute full",
     .library = true,
     .recompute = RECOMPUTE_FULL,
     .base = QUANT_NF4},
    {.name = "nf4 base, ZeRO-3, library's attention",
     .library = true,
     .base = QUANT_NF4,
     .zero = 3},
    {.name = "int8 base, library's attention", .library = true, .base = QUANT_INT8},
    {.name = "int8 base, the same, recompute full",
     .library = true,
     .recompute = RECOMPUTE_FULL,
     .base = QUANT_INT8},
};
enum { N_WAYS = sizeof ways / sizeof *ways };

/* A CPU has one attention, its own. */
static bool applies(const Way *w, const BenchOpts *o)
{
    if (!w->library && str_eq(o->device, "cpu")) return false;
    if (w->base != QUANT_NONE && o->method == METHOD_FULL) return false; /* it cannot be trained */
    return w->zero == 0 || (o->hosts && o->hosts->size > 1);
}

static BenchOpts opts_of(const Way *w, const BenchOpts *o)
{
    BenchOpts way = *o;
    way.zero = w->zero;
    way.own_attention = !w->library;
    way.recompute = w->recompute;
    way.offload = w->offload;
    if (w->base != QUANT_NONE)
        way.quant = (QuantOpts){.type = w->base, .nested = quant_is_4bit(w->base)};
    way.no_floor = way.steps_only = true;
    return way;
}

/* The table's floor is one, that of products and the library's attention, for a row of its own; 0 where its model has no room. */
static double floor_a_row(BenchResult *r, const BenchOpts *o)
{
    BenchOpts fitting = *o;
    Err ignored = {0};
    fitting.recompute = RECOMPUTE_AUTO;
    fitting.zero = 3;
    fitting.steps_only = true;
    fitting.largest = false;
    if (bench_run(r, &fitting, &ignored) != OK) return 0;
    return r->lines[0].floor_s / (double)r->micro;
}

Status bench_matrix(StrBuf *b, const char *title, const BenchOpts *o, bool json, Err *err)
{
    BenchResult *r = xcalloc(1, sizeof *r);
    double floor_s = floor_a_row(r, o);
    Status s = OK;
    if (!json) bench_print_matrix_head(b, title);
    for (int i = 0; i < N_WAYS && s == OK; i++) {
        if (!applies(&ways[i], o)) continue;
        BenchOpts way = opts_of(&ways[i], o);
        s = bench_run(r, &way, err);
        if (s != OK && r->too_large) s = OK; /* its row says so */
        if (s == OK && json) bench_print_matrix_json(b, title, ways[i].name, &way, r, floor_s);
        if (s == OK && !json) bench_print_matrix_row(b, ways[i].name, r, floor_s);
    }
    free(r);
    return s;
}
