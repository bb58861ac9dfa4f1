#include "model/json_fields.h"

const Json *fields_value(const JsonFields *f, const char *key)
{
    const Json *j = json_get(f->object, key);
    return j && json_kind(j) != JK_NULL ? j : NULL;
}

bool fields_bad_kind(const JsonFields *f, const char *key, const char *want, const Json *found)
{
    problems_add(f->faults, "%s: %s%s: must be %s, found %s", f->file, f->where, key, want,
                 json_kind_name(found));
    return false;
}

bool fields_bool(const JsonFields *f, const char *key, bool *out)
{
    const Json *j = fields_value(f, key);
    return !j || json_bool(j, out) || fields_bad_kind(f, key, "true or false", j);
}

bool fields_int(const JsonFields *f, const char *key, int64_t *out)
{
    const Json *j = fields_value(f, key);
    return !j || json_int(j, out) || fields_bad_kind(f, key, "an integer", j);
}

bool fields_text(const JsonFields *f, const char *key, const char **out)
{
    const Json *j = fields_value(f, key);
    return !j || json_str(j, out, NULL) || fields_bad_kind(f, key, "a string", j);
}

/* What becomes 0 as a float is no positive number. */
static const double SMALLEST = 1e-30;

bool fields_positive(const JsonFields *f, const char *key, double max, double *out)
{
    const Json *j = fields_value(f, key);
    double v;
    if (!j) return true;
    if (!json_number(j, &v)) return fields_bad_kind(f, key, "a number", j);
    if (!(v >= SMALLEST && v <= max)) {
        problems_add(f->faults, "%s: %s%s: must be at least %g and at most %g, found %g", f->file,
                     f->where, key, SMALLEST, max, v);
        return false;
    }
    *out = v;
    return true;
}
