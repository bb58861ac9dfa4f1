/* The flags that say how a base that is not quantised is kept: `eval`, `generate`, `merge`. */
#pragma once

#include "base/opts.h"
#include "model/quant.h"

typedef struct QuantFlags {
    const char *type; /* NULL: not given */
    int64_t block;
    bool single;
} QuantFlags;
QuantFlags quant_flags_defaults(void);

/* Entries for a command's table of options. */
#define QUANT_FLAGS(f)                                                                             \
    {"quantize", OPT_STRING, &(f).type, "TYPE",                                                    \
     "keep the blocks' matrices as nf4, fp4, int8, fp8 or none (default: as the run that made "    \
     "the adapter did)"},                                                                          \
        {"quant-block", OPT_INT, &(f).block, "N",                                                  \
         "nf4 and fp4: weights that share a scale, 32 to 4096 (default 64)"},                      \
    {                                                                                              \
        "single-quant", OPT_FLAG, &(f).single, NULL, "nf4 and fp4 without double quantisation"     \
    }

/* The first flag that is given; NULL: none is. */
const char *quant_flags_given(const QuantFlags *f);
/* What they say together; none: type QUANT_NONE.  E_INPUT: a value that is none, or one that its type has no use for. */
Status quant_flags_read(QuantOpts *out, const QuantFlags *f, Err *err) MUST_CHECK;
