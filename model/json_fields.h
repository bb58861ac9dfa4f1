/* Fields of an object of a Hugging Face file: absent and null are the default, as in transformers; every fault is a line, and reading
 * goes on with the default in the value's place. */
#pragma once

#include "base/err.h"
#include "base/json.h"

typedef struct JsonFields {
    const Json *object; /* NULL: every field has its default */
    const char *file;
    const char *where; /* the object's own name in the file, with a dot; "" for the file's own */
    Problems *faults;
} JsonFields;

/* NULL where it is absent or null. */
const Json *fields_value(const JsonFields *f, const char *key);

/* "file: key: must be WANT, found ...".  Returns false. */
bool fields_bad_kind(const JsonFields *f, const char *key, const char *want, const Json *found);

/* *out is the default, and stays so where the field has it or is wrong: then they return false. */
bool fields_bool(const JsonFields *f, const char *key, bool *out);
bool fields_int(const JsonFields *f, const char *key, int64_t *out);
bool fields_text(const JsonFields *f, const char *key, const char **out); /* the file's */
/* Above 0 as a float, and at most max. */
bool fields_positive(const JsonFields *f, const char *key, double max, double *out);
