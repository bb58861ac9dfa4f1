/* One file's header: JSON to tensors, with every check of the reference. */
#include "tensor/safeheader.h"

#include "base/json.h"

#include <stdlib.h>
#include <string.h>

#define MAX_HEADER_BYTES 100000000u

static const struct {
    const char *name;
    int bits;
} dtypes[ST_N] = {
    [ST_BOOL] = {"BOOL", 8},
    [ST_F4] = {"F4", 4},
    [ST_F6_E2M3] = {"F6_E2M3", 6},
    [ST_F6_E3M2] = {"F6_E3M2", 6},
    [ST_U8] = {"U8", 8},
    [ST_I8] = {"I8", 8},
    [ST_F8_E5M2] = {"F8_E5M2", 8},
    [ST_F8_E4M3] = {"F8_E4M3", 8},
    [ST_F8_E8M0] = {"F8_E8M0", 8},
    [ST_F8_E4M3FNUZ] = {"F8_E4M3FNUZ", 8},
    [ST_F8_E5M2FNUZ] = {"F8_E5M2FNUZ", 8},
    [ST_I16] = {"I16", 16},
    [ST_U16] = {"U16", 16},
    [ST_F16] = {"F16", 16},
    [ST_BF16] = {"BF16", 16},
    [ST_I32] = {"I32", 32},
    [ST_U32] = {"U32", 32},
    [ST_F32] = {"F32", 32},
    [ST_C64] = {"C64", 64},
    [ST_F64] = {"F64", 64},
    [ST_I64] = {"I64", 64},
    [ST_U64] = {"U64", 64},
};

const char *safe_dtype_name(SafeDType t)
{
    return dtypes[t].name;
}

int safe_dtype_bits(SafeDType t)
{
    return dtypes[t].bits;
}

static const SafeDType of_tensor[DT_N] = {
    [DT_F32] = ST_F32, [DT_BF16] = ST_BF16, [DT_F16] = ST_F16, [DT_I32] = ST_I32,
    [DT_I64] = ST_I64, [DT_U8] = ST_U8,     [DT_I8] = ST_I8,   [DT_I16] = ST_I16,
};

SafeDType safe_dtype_from_tensor(DType t)
{
    return of_tensor[t];
}

bool safe_dtype_to_tensor(SafeDType t, DType *out)
{
    for (int i = 0; i < DT_N; i++) {
        if (of_tensor[i] != t) continue;
        *out = (DType)i;
        return true;
    }
    return false;
}

int64_t safe_numel(const SafeTensor *t)
{
    int64_t n = 1;
    for (int i = 0; i < t->n_dims; i++)
        n *= t->shape[i];
    return n;
}

/* A tensor of a header, in the file's order while it is checked. */
typedef struct Entry {
    SafeTensor t;
    uint64_t begin, end;
} Entry;

typedef struct Reader {
    const char *file;
    Arena *arena;
    Entry *entries;
    int n;
    const char **meta;
    int n_meta;
    Err *err;
} Reader;

static const char *keep(Reader *r, const char *text, size_t n)
{
    char *copy = arena_alloc(r->arena, n + 1);
    memcpy(copy, text, n);
    return copy;
}

static Status bad_entry(const Reader *r, const char *name, const char *what)
{
    return err_set(r->err, E_INPUT, "%s: tensor '%s': %s (InvalidHeaderDeserialization)", r->file,
                   name, what);
}

/* The reference reads unsigned 64-bit integers.  Those above 2^63-1 reach us as reals; none can be right,
 * but which check refuses them is the reference's choice. */
static bool read_size(const Json *j, uint64_t *out)
{
    int64_t v;
    double huge;
    if (json_int(j, &v) && v >= 0)
        *out = (uint64_t)v;
    else if (json_number(j, &huge) && huge >= 0x1p63 && huge <= 0x1p64)
        *out = UINT64_MAX;
    else
        return false;
    return true;
}

static Status read_entry(Reader *r, const char *name, const Json *j, Entry *e)
{
    if (json_kind(j) != JK_OBJECT) return bad_entry(r, name, "its entry is no JSON object");
    const char *dtype;
    size_t len;
    if (!json_str(json_get(j, "dtype"), &dtype, &len))
        return bad_entry(r, name, "'dtype' is missing or no string");
    int t = 0;
    while (t < ST_N && !(strlen(dtypes[t].name) == len && memcmp(dtypes[t].name, dtype, len) == 0))
        t++;
    if (t == ST_N)
        return err_set(r->err, E_INPUT,
                       "%s: tensor '%s': unknown dtype '%s' (InvalidHeaderDeserialization)",
                       r->file, name, dtype);

    const Json *shape = json_get(j, "shape"), *offsets = json_get(j, "data_offsets");
    if (!shape || json_kind(shape) != JK_ARRAY)
        return bad_entry(r, name, "'shape' is missing or no array");
    size_t n_dims = json_size(shape);
    uint64_t *dims = arena_alloc(r->arena, n_dims * sizeof *dims);
    for (size_t i = 0; i < n_dims; i++)
        if (!read_size(json_at(shape, i), &dims[i]))
            return bad_entry(r, name, "'shape' holds something else than sizes");
    uint64_t begin, end;
    if (!offsets || json_kind(offsets) != JK_ARRAY || json_size(offsets) != 2 ||
        !read_size(json_at(offsets, 0), &begin) || !read_size(json_at(offsets, 1), &end))
        return bad_entry(r, name, "'data_offsets' is missing or not two integers");

    e->begin = begin, e->end = end;
    e->t = (SafeTensor){.name = keep(r, name, strlen(name)),
                        .dtype = (SafeDType)t,
                        .n_dims = (int)n_dims,
                        .shape = (const int64_t *)dims, /* above 2^63-1: refused by check_entry */
                        .file = r->file};
    return OK;
}

/* Values are strings and nothing else; the reference reads null as no metadata. */
static Status read_metadata(Reader *r, const Json *meta)
{
    if (json_kind(meta) == JK_NULL) return OK;
    if (json_kind(meta) != JK_OBJECT)
        return err_set(r->err, E_INPUT,
                       "%s: __metadata__ is no JSON object (InvalidHeaderDeserialization)",
                       r->file);
    r->meta = xcalloc(2 * json_size(meta), sizeof *r->meta);
    for (void *it = json_first(meta); it; it = json_next(meta, it)) {
        const char *key = json_iter_key(it), *value;
        size_t len;
        if (!json_str(json_iter_value(it), &value, &len))
            return err_set(r->err, E_INPUT,
                           "%s: __metadata__: '%s' is no string (InvalidHeaderDeserialization)",
                           r->file, key);
        r->meta[2 * r->n_meta] = keep(r, key, strlen(key));
        r->meta[2 * r->n_meta + 1] = keep(r, value, len);
        r->n_meta++;
    }
    return OK;
}

static int by_offset(const void *a, const void *b)
{
    const Entry *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    if (x->end != y->end) return x->end < y->end ? -1 : 1;
    return strcmp(x->t.name, y->t.name); /* several without bytes may share an offset */
}

static Status check_entry(const Reader *r, const Entry *e, uint64_t before)
{
    const char *file = r->file, *name = e->t.name;
    if (e->begin != before || e->end < e->begin)
        return err_set(
            r->err, E_INPUT,
            "%s: tensor '%s': data_offsets [%llu, %llu] where the tensor before ends at %llu: "
            "no holes or overlaps are allowed (InvalidOffset)",
            file, name, (unsigned long long)e->begin, (unsigned long long)e->end,
            (unsigned long long)before);
    uint64_t bits = 1;
    bool overflow = false;
    for (int i = 0; i < e->t.n_dims; i++)
        overflow = overflow || e->t.shape[i] < 0 ||
                   __builtin_mul_overflow(bits, (uint64_t)e->t.shape[i], &bits);
    overflow = overflow || __builtin_mul_overflow(bits, (uint64_t)dtypes[e->t.dtype].bits, &bits);
    if (overflow)
        return err_set(r->err, E_INPUT,
                       "%s: tensor '%s': its shape has more elements than can be counted "
                       "(ValidationOverflow)",
                       file, name);
    if (bits % 8)
        return err_set(r->err, E_INPUT,
                       "%s: tensor '%s': %llu bits of %s are no whole number of bytes "
                       "(MisalignedSlice)",
                       file, name, (unsigned long long)bits, dtypes[e->t.dtype].name);
    if (e->end - e->begin != bits / 8)
        return err_set(r->err, E_INPUT,
                       "%s: tensor '%s': shape and dtype need %llu bytes, data_offsets span %llu "
                       "(TensorInvalidInfo)",
                       file, name, (unsigned long long)(bits / 8),
                       (unsigned long long)(e->end - e->begin));
    return OK;
}

static Status read_entries(Reader *r, const Json *root)
{
    if (json_kind(root) != JK_OBJECT)
        return err_set(r->err, E_INPUT,
                       "%s: the header is no JSON object (InvalidHeaderDeserialization)", r->file);
    r->entries = xcalloc(json_size(root), sizeof *r->entries);
    for (void *it = json_first(root); it; it = json_next(root, it)) {
        const char *key = json_iter_key(it);
        if (str_eq(key, "__metadata__")) {
            TRY(read_metadata(r, json_iter_value(it)));
            continue;
        }
        TRY(read_entry(r, key, json_iter_value(it), &r->entries[r->n]));
        r->n++;
    }
    return OK;
}

/* The header's text, found by the length before it. */
static Status find_text(const Reader *r, const uint8_t *data, size_t len, size_t *n_out)
{
    if (len < 8)
        return err_set(r->err, E_INPUT,
                       "%s: %zu bytes are too few for a safetensors file (HeaderTooSmall)", r->file,
                       len);
    uint64_t n = 0;
    for (int i = 0; i < 8; i++)
        n |= (uint64_t)data[i] << (8 * i);
    if (n > MAX_HEADER_BYTES)
        return err_set(r->err, E_INPUT,
                       "%s: a header of %llu bytes, at most %u are allowed; is this a safetensors "
                       "file? (HeaderTooLarge)",
                       r->file, (unsigned long long)n, MAX_HEADER_BYTES);
    if (n > len - 8)
        return err_set(r->err, E_INPUT,
                       "%s: a header of %llu bytes in a file of %zu: the file is cut short or no "
                       "safetensors file (InvalidHeaderLength)",
                       r->file, (unsigned long long)n, len);
    if (!utf8_valid((const char *)data + 8, n))
        return err_set(r->err, E_INPUT, "%s: the header is not UTF-8 (InvalidHeader)", r->file);
    *n_out = (size_t)n;
    return OK;
}

static Status check_buffer(Reader *r, uint64_t bytes)
{
    if (r->n) qsort(r->entries, (size_t)r->n, sizeof *r->entries, by_offset);
    uint64_t end = 0;
    for (int i = 0; i < r->n; i++) {
        TRY(check_entry(r, &r->entries[i], end));
        end = r->entries[i].end;
    }
    if (end == bytes) return OK;
    return err_set(r->err, E_INPUT,
                   "%s: the tensors take %llu bytes, the file has %llu behind its header: %s "
                   "(MetadataIncompleteBuffer)",
                   r->file, (unsigned long long)end, (unsigned long long)bytes,
                   end > bytes ? "it is cut short, copy it again"
                               : "there are bytes that belong to no tensor");
}

/* The checks in the reference's order. */
static Status read_all(Reader *r, const uint8_t *data, size_t len)
{
    size_t n = 0;
    TRY(find_text(r, data, len, &n));
    Json *root;
    Err json_err;
    if (json_parse(&root, (const char *)data + 8, n, "header", 1, JSON_REFUSE_DUPLICATES,
                   &json_err) != OK)
        return err_set(r->err, E_INPUT, "%s: %s (InvalidHeaderDeserialization)", r->file,
                       json_err.line);
    Status s = read_entries(r, root);
    json_free(root);
    TRY(s);
    TRY(check_buffer(r, len - 8 - n));
    for (int i = 0; i < r->n; i++) {
        Entry *e = &r->entries[i];
        e->t.data = data + 8 + n + e->begin;
        e->t.bytes = (size_t)(e->end - e->begin);
    }
    return OK;
}

Status safeheader_read(SafeHeader *out, Arena *arena, const uint8_t *data, size_t len,
                       const char *file, Err *err)
{
    Reader r = {.file = file, .arena = arena, .err = err};
    Status s = read_all(&r, data, len);
    if (s == OK) {
        *out = (SafeHeader){.n = r.n, .meta = r.meta, .n_meta = r.n_meta};
        out->tensors = xcalloc((size_t)r.n, sizeof *out->tensors);
        for (int i = 0; i < r.n; i++)
            out->tensors[i] = r.entries[i].t;
    } else {
        free(r.meta);
    }
    free(r.entries);
    return s;
}

void safeheader_clear(SafeHeader *h)
{
    free(h->tensors);
    free(h->meta);
    *h = (SafeHeader){0};
}
