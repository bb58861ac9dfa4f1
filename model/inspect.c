/* Numbers about stored tensors: norms, extremes, NaN; differences. */
#include "model/inspect.h"

#include "model/inspect_source.h"
#include "tensor/convert.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK = 1 << 16 };

/* --- elements as numbers ---------------------------------------------------------------------------------- */

static bool has_numbers(SafeDType t)
{
    return safe_dtype_bits(t) >= 8 && t != ST_C64 && !(t >= ST_F8_E5M2 && t <= ST_F8_E5M2FNUZ);
}

/* Elements are little-endian and perhaps unaligned. */
#define CONVERT(type)                                                                              \
    for (int64_t i = 0; i < n; i++) {                                                              \
        type v;                                                                                    \
        memcpy(&v, from + (size_t)i * sizeof v, sizeof v);                                         \
        to[i] = (double)v;                                                                         \
    }                                                                                              \
    break

static void read_numbers(double *to, const SafeTensor *t, int64_t first, int64_t n)
{
    const uint8_t *from = t->data + (size_t)first * (size_t)(safe_dtype_bits(t->dtype) / 8);
    float f[1024];
    switch (t->dtype) {
    case ST_F32:
    case ST_BF16:
    case ST_F16: {
        DType dtype = DT_F32;
        safe_dtype_to_tensor(t->dtype, &dtype);
        for (int64_t at = 0; at < n; at += 1024) {
            int64_t some = n - at < 1024 ? n - at : 1024;
            convert_to_f32(f, from + (size_t)at * dtype_bytes(dtype), dtype, some);
            for (int64_t i = 0; i < some; i++)
                to[at + i] = (double)f[i];
        }
        break;
    }
    case ST_F64:
        CONVERT(double);
    case ST_I64:
        CONVERT(int64_t);
    case ST_U64:
        CONVERT(uint64_t);
    case ST_I32:
        CONVERT(int32_t);
    case ST_U32:
        CONVERT(uint32_t);
    case ST_I16:
        CONVERT(int16_t);
    case ST_U16:
        CONVERT(uint16_t);
    case ST_I8:
        CONVERT(int8_t);
    default:
        CONVERT(uint8_t); /* U8, BOOL */
    }
}

static int64_t n_chunks(int64_t n)
{
    return (n + CHUNK - 1) / CHUNK;
}

static int64_t chunk_size(int64_t n, int64_t chunk)
{
    int64_t left = n - chunk * CHUNK;
    return left < CHUNK ? left : CHUNK;
}

/* --- one tensor ------------------------------------------------------------------------------------------- */

typedef struct Stats {
    double squares, min, max;
    int64_t n_nan, n_inf, n_finite;
} Stats;

typedef struct StatsJob {
    const SafeTensor *t;
    int64_t n;
    Stats *chunks;
} StatsJob;

static void stats_chunk(void *ud, int64_t chunk)
{
    StatsJob *j = ud;
    int64_t n = chunk_size(j->n, chunk);
    double *v = xmalloc((size_t)n * sizeof *v);
    read_numbers(v, j->t, chunk * CHUNK, n);
    Stats s = {.min = INFINITY, .max = -INFINITY};
    for (int64_t i = 0; i < n; i++) {
        s.n_nan += isnan(v[i]) != 0;
        s.n_inf += isinf(v[i]) != 0;
        if (!isfinite(v[i])) continue;
        s.n_finite++;
        s.squares += v[i] * v[i];
        s.min = fmin(s.min, v[i]);
        s.max = fmax(s.max, v[i]);
    }
    j->chunks[chunk] = s;
    free(v);
}

static void describe(TensorInfo *out, const char *name, const SafeTensor *t, Pool *pool)
{
    *out = (TensorInfo){.name = xstrdup(name),
                        .dtype = t->dtype,
                        .n_dims = t->n_dims,
                        .numel = safe_numel(t),
                        .bytes = t->bytes,
                        .has_numbers = has_numbers(t->dtype)};
    out->shape = xmalloc((size_t)t->n_dims * sizeof *out->shape);
    if (t->n_dims) memcpy(out->shape, t->shape, (size_t)t->n_dims * sizeof *out->shape);
    if (!out->has_numbers) return;
    StatsJob j = {t, out->numel, xcalloc((size_t)n_chunks(out->numel), sizeof(Stats))};
    pool_run(pool, n_chunks(out->numel), stats_chunk, &j);
    Stats all = {.min = INFINITY, .max = -INFINITY};
    for (int64_t i = 0; i < n_chunks(out->numel); i++) {
        all.squares += j.chunks[i].squares;
        all.min = fmin(all.min, j.chunks[i].min);
        all.max = fmax(all.max, j.chunks[i].max);
        all.n_nan += j.chunks[i].n_nan;
        all.n_inf += j.chunks[i].n_inf;
        all.n_finite += j.chunks[i].n_finite;
    }
    free(j.chunks);
    out->norm = sqrt(all.squares);
    out->min = all.n_finite ? all.min : 0;
    out->max = all.n_finite ? all.max : 0;
    out->n_nan = all.n_nan;
    out->n_inf = all.n_inf;
}

Status inspect_weights(Inspection *out, const char *path, Pool *pool, Err *err)
{
    WeightFiles f;
    TRY(weight_files_open(&f, path, err));
    *out = (Inspection){.kind = f.kind, .n = f.n};
    out->items = xcalloc((size_t)f.n, sizeof *out->items);
    for (int i = 0; i < f.n; i++) {
        TensorInfo *t = &out->items[i];
        describe(t, f.items[i].name, f.items[i].tensor, pool);
        out->numel += t->numel;
        out->bytes += t->bytes;
        out->n_nan += t->n_nan;
        out->n_inf += t->n_inf;
        out->numel_of[t->dtype] += t->numel;
    }
    weight_files_close(&f);
    return OK;
}

static void info_clear(TensorInfo *t)
{
    free(t->name);
    free(t->shape);
}

void inspection_clear(Inspection *r)
{
    for (int i = 0; i < r->n; i++)
        info_clear(&r->items[i]);
    free(r->items);
    *r = (Inspection){0};
}

Status inspect_finite_tensor(const SafeTensor *tensor, Pool *pool, Err *err)
{
    TensorInfo t;
    Status s = OK;
    describe(&t, tensor->name, tensor, pool);
    if (t.n_nan + t.n_inf > 0)
        s = err_set(err, E_INPUT,
                    "%s: weight %s holds %lld values that are not finite; the file is damaged "
                    "or its training went wrong: take an earlier one",
                    tensor->file, t.name, (long long)(t.n_nan + t.n_inf));
    info_clear(&t);
    return s;
}

Status inspect_finite(const char *path, Pool *pool, Err *err)
{
    WeightFiles f;
    TRY(weight_files_open(&f, path, err));
    Status s = OK;
    for (int i = 0; i < f.n && s == OK; i++)
        s = inspect_finite_tensor(f.items[i].tensor, pool, err);
    weight_files_close(&f);
    return s;
}

/* --- two tensors ------------------------------------------------------------------------------------------ */

typedef struct DiffChunk {
    double max_abs, largest_b;
    int64_t at, n_different;
} DiffChunk;

typedef struct DiffJob {
    const SafeTensor *a, *b;
    int64_t n;
    DiffChunk *chunks;
} DiffJob;

static void diff_chunk(void *ud, int64_t chunk)
{
    DiffJob *j = ud;
    int64_t n = chunk_size(j->n, chunk), first = chunk * CHUNK;
    double *a = xmalloc(2 * (size_t)n * sizeof *a), *b = a + n;
    read_numbers(a, j->a, first, n);
    read_numbers(b, j->b, first, n);
    DiffChunk d = {.at = -1};
    for (int64_t i = 0; i < n; i++) {
        if (isfinite(b[i])) d.largest_b = fmax(d.largest_b, fabs(b[i]));
        if (a[i] == b[i] || (isnan(a[i]) && isnan(b[i]))) continue;
        double by = fabs(a[i] - b[i]);
        if (isnan(by)) by = INFINITY;
        d.n_different++;
        if (d.at >= 0 && by <= d.max_abs) continue;
        d.max_abs = by;
        d.at = first + i;
    }
    j->chunks[chunk] = d;
    free(a);
}

static void compare_numbers(TensorDiff *d, const SafeTensor *a, const SafeTensor *b, Pool *pool)
{
    DiffJob j = {a, b, safe_numel(a), NULL};
    int64_t n = n_chunks(j.n);
    j.chunks = xcalloc((size_t)n, sizeof *j.chunks);
    pool_run(pool, n, diff_chunk, &j);
    double largest = 0;
    for (int64_t i = 0; i < n; i++) {
        const DiffChunk *c = &j.chunks[i];
        largest = fmax(largest, c->largest_b);
        d->n_different += c->n_different;
        if (c->at < 0 || (d->at >= 0 && c->max_abs <= d->max_abs)) continue;
        d->max_abs = c->max_abs;
        d->at = c->at;
    }
    free(j.chunks);
    if (d->at < 0) return;
    d->max_rel = largest > 0 ? d->max_abs / largest : INFINITY;
    read_numbers(&d->value_a, a, d->at, 1);
    read_numbers(&d->value_b, b, d->at, 1);
}

static TensorDiff compare(const char *name, const SafeTensor *a, const SafeTensor *b,
                          double tolerance, Pool *pool)
{
    TensorDiff d = {.name = xstrdup(name), .at = -1};
    if (!a || !b) {
        d.kind = a ? DIFF_ONLY_A : DIFF_ONLY_B;
        return d;
    }
    bool shape =
        a->n_dims == b->n_dims &&
        (a->n_dims == 0 || memcmp(a->shape, b->shape, (size_t)a->n_dims * sizeof *a->shape) == 0);
    d.other_dtype = a->dtype != b->dtype;
    if (!shape) {
        d.kind = DIFF_SHAPE;
    } else if (has_numbers(a->dtype) && has_numbers(b->dtype)) {
        compare_numbers(&d, a, b, pool);
        /* tolerance 0 counts every difference, also one of a number too small to divide */
        if (tolerance > 0 ? d.max_rel > tolerance : d.n_different > 0) d.kind = DIFF_VALUES;
    } else if (a->bytes != b->bytes || memcmp(a->data, b->data, a->bytes) != 0) {
        d.kind = DIFF_VALUES;
        d.max_abs = d.max_rel = INFINITY; /* of these only the bytes are known */
    }
    return d;
}

/* Both lists are in the same order, so they are walked like two sorted files. */
Status inspect_diff(DiffReport *out, const char *a, const char *b, double tolerance, Pool *pool,
                    Err *err)
{
    WeightFiles fa, fb;
    TRY(weight_files_open(&fa, a, err));
    Status s = weight_files_open(&fb, b, err);
    if (s != OK) {
        weight_files_close(&fa);
        return s;
    }
    *out = (DiffReport){.first = -1};
    out->items = xcalloc((size_t)(fa.n + fb.n), sizeof *out->items);
    for (int i = 0, k = 0; i < fa.n || k < fb.n;) {
        int order = i == fa.n   ? 1
                    : k == fb.n ? -1
                                : weight_name_order(fa.items[i].name, fb.items[k].name);
        const NamedTensor *ta = order <= 0 ? &fa.items[i++] : NULL;
        const NamedTensor *tb = order >= 0 ? &fb.items[k++] : NULL;
        out->items[out->n] = compare((ta ? ta : tb)->name, ta ? ta->tensor : NULL,
                                     tb ? tb->tensor : NULL, tolerance, pool);
        if (out->items[out->n].kind != DIFF_NONE) {
            if (out->first < 0) out->first = out->n;
            out->n_different++;
        }
        out->n++;
    }
    weight_files_close(&fa);
    weight_files_close(&fb);
    return OK;
}

void diff_report_clear(DiffReport *r)
{
    for (int i = 0; i < r->n; i++)
        free(r->items[i].name);
    free(r->items);
    *r = (DiffReport){0};
}
