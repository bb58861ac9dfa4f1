/* What the flags of several commands share: rows of their tables, and checks of values.  A check that fails says
 * "--flag: what it must be, what it is" (E_INPUT). */
#pragma once

#include "base/opts.h"
#include "model/llama.h"

/* Rows of a table of options; `v` takes the value. */
#define THREADS_FLAG(v)                                                                            \
    {                                                                                              \
        "threads", OPT_INT, &(v), "N", "threads (default: all that may be used)"                   \
    }
#define JSON_FLAG(v)                                                                               \
    {                                                                                              \
        "json", OPT_FLAG, &(v), NULL, "print one JSON object"                                      \
    }

/* *out: the index of `value` among names[], which ends with NULL. */
Status flag_choice(int *out, const char *flag, const char *value, const char *const *names,
                   Err *err) MUST_CHECK;
Status flag_range(const char *flag, int64_t value, int64_t least, int64_t most,
                  Err *err) MUST_CHECK;
/* --threads: 0 is all. */
Status flag_threads(int64_t n, Err *err) MUST_CHECK;
/* --limit: 0 is none. */
Status flag_limit(int64_t n, Err *err) MUST_CHECK;
/* --out of a file that is written at the end of long work: that it can be there. */
Status flag_out(const char *path, Err *err) MUST_CHECK;
/* --precision.  value NULL: the device's own, bf16 on all but the CPU, which has fp32 alone. */
Status flag_precision(DType *out, const char *value, const char *device, Err *err) MUST_CHECK;
/* A named shape; `flag` is what named it. */
Status flag_shape(LlamaConfig *out, const char *flag, const char *name, Err *err) MUST_CHECK;
/* " tiny llama-3-8b ...": what flag_shape knows, for --help. */
void flag_shape_names(StrBuf *b);

/* A flag that only one way of running a command reads.  Given where it does not fit it is refused, so that none is given
 * in vain. */
typedef struct FlagUse {
    const char *name;
    bool given, fits;
    const char *why; /* "--name: has no meaning WHY"; NULL: as the table's */
} FlagUse;
Status flags_check_use(const FlagUse *uses, size_t n, const char *why, Err *err) MUST_CHECK;
#define CHECK_USE(uses, why, err) flags_check_use(uses, sizeof(uses) / sizeof *(uses), why, err)
