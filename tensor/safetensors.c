/* Reading safetensors.  A header becomes a table sorted by name; nothing of the header's JSON is kept. */
#include "tensor/safetensors.h"

#include "base/arena.h"
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
    [DT_I64] = ST_I64, [DT_U8] = ST_U8,     [DT_I8] = ST_I8,
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

struct SafeTensors {
    SafeTensor *tensors; /* sorted by name */
    int n, n_unlisted;
    FileMap *maps;
    int n_maps;
    const char **meta; /* keys and values in turn */
    int n_meta;
    Arena *arena; /* names, shapes, metadata, paths */
};

static SafeTensors *safetensors_new(void)
{
    SafeTensors *s = xcalloc(1, sizeof *s);
    s->arena = arena_new(64 << 10);
    return s;
}

void safetensors_close(SafeTensors *s)
{
    if (!s) return;
    for (int i = 0; i < s->n_maps; i++)
        file_unmap(&s->maps[i]);
    free(s->maps);
    free(s->tensors);
    free(s->meta);
    arena_free(s->arena);
    free(s);
}

static const char *keep(SafeTensors *s, const char *text, size_t n)
{
    char *copy = arena_alloc(s->arena, n + 1);
    memcpy(copy, text, n);
    return copy;
}

/* ---- one file ---- */

/* A tensor of a header, in the file's order while it is checked. */
typedef struct Entry {
    SafeTensor t;
    uint64_t begin, end;
} Entry;

typedef struct Header {
    const char *file;
    SafeTensors *s;
    Entry *entries;
    int n;
    Err *err;
} Header;

static Status bad_entry(const Header *h, const char *name, const char *what)
{
    return err_set(h->err, E_INPUT, "%s: tensor '%s': %s (InvalidHeaderDeserialization)", h->file,
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

static Status read_entry(Header *h, const char *name, size_t name_len, const Json *j, Entry *e)
{
    if (memchr(name, '\0', name_len)) return bad_entry(h, name, "a NUL byte in the name");
    if (json_kind(j) != JK_OBJECT) return bad_entry(h, name, "its entry is no JSON object");
    const char *dtype;
    size_t len;
    if (!json_str(json_get(j, "dtype"), &dtype, &len))
        return bad_entry(h, name, "'dtype' is missing or no string");
    int t = 0;
    while (t < ST_N && !(strlen(dtypes[t].name) == len && memcmp(dtypes[t].name, dtype, len) == 0))
        t++;
    if (t == ST_N)
        return err_set(h->err, E_INPUT,
                       "%s: tensor '%s': unknown dtype '%s' (InvalidHeaderDeserialization)",
                       h->file, name, dtype);

    const Json *shape = json_get(j, "shape"), *offsets = json_get(j, "data_offsets");
    if (!shape || json_kind(shape) != JK_ARRAY)
        return bad_entry(h, name, "'shape' is missing or no array");
    size_t n_dims = json_size(shape);
    uint64_t *dims = arena_alloc(h->s->arena, n_dims * sizeof *dims);
    for (size_t i = 0; i < n_dims; i++)
        if (!read_size(json_at(shape, i), &dims[i]))
            return bad_entry(h, name, "'shape' holds something else than sizes");
    uint64_t begin, end;
    if (!offsets || json_kind(offsets) != JK_ARRAY || json_size(offsets) != 2 ||
        !read_size(json_at(offsets, 0), &begin) || !read_size(json_at(offsets, 1), &end))
        return bad_entry(h, name, "'data_offsets' is missing or not two integers");

    e->begin = begin, e->end = end;
    e->t = (SafeTensor){.name = keep(h->s, name, name_len),
                        .dtype = (SafeDType)t,
                        .n_dims = (int)n_dims,
                        .shape = (const int64_t *)dims, /* above 2^63-1: refused by check_entry */
                        .file = h->file};
    return OK;
}

/* Values are strings and nothing else; the reference reads null as no metadata. */
static Status read_metadata(Header *h, const Json *meta, bool wanted)
{
    if (json_kind(meta) == JK_NULL) return OK;
    if (json_kind(meta) != JK_OBJECT)
        return err_set(h->err, E_INPUT,
                       "%s: __metadata__ is no JSON object (InvalidHeaderDeserialization)",
                       h->file);
    SafeTensors *s = h->s;
    if (wanted) s->meta = xcalloc(2 * json_size(meta), sizeof *s->meta);
    for (void *it = json_first(meta); it; it = json_next(meta, it)) {
        const char *value;
        size_t len;
        if (!json_str(json_iter_value(it), &value, &len))
            return err_set(h->err, E_INPUT,
                           "%s: __metadata__: '%s' is no string (InvalidHeaderDeserialization)",
                           h->file, json_iter_key(it));
        if (!wanted) continue;
        s->meta[2 * s->n_meta] = keep(s, json_iter_key(it), json_iter_key_len(it));
        s->meta[2 * s->n_meta + 1] = keep(s, value, len);
        s->n_meta++;
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

static Status check_entry(const Header *h, const Entry *e, uint64_t before)
{
    const char *file = h->file, *name = e->t.name;
    if (e->begin != before || e->end < e->begin)
        return err_set(
            h->err, E_INPUT,
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
        return err_set(h->err, E_INPUT,
                       "%s: tensor '%s': its shape has more elements than can be counted "
                       "(ValidationOverflow)",
                       file, name);
    if (bits % 8)
        return err_set(h->err, E_INPUT,
                       "%s: tensor '%s': %llu bits of %s are no whole number of bytes "
                       "(MisalignedSlice)",
                       file, name, (unsigned long long)bits, dtypes[e->t.dtype].name);
    if (e->end - e->begin != bits / 8)
        return err_set(h->err, E_INPUT,
                       "%s: tensor '%s': shape and dtype need %llu bytes, data_offsets span %llu "
                       "(TensorInvalidInfo)",
                       file, name, (unsigned long long)(bits / 8),
                       (unsigned long long)(e->end - e->begin));
    return OK;
}

static Status read_entries(Header *h, const Json *root, bool want_metadata)
{
    if (json_kind(root) != JK_OBJECT)
        return err_set(h->err, E_INPUT,
                       "%s: the header is no JSON object (InvalidHeaderDeserialization)", h->file);
    h->entries = xcalloc(json_size(root), sizeof *h->entries);
    for (void *it = json_first(root); it; it = json_next(root, it)) {
        const char *key = json_iter_key(it);
        size_t len = json_iter_key_len(it);
        if (len == strlen("__metadata__") && str_eq(key, "__metadata__")) {
            TRY(read_metadata(h, json_iter_value(it), want_metadata));
            continue;
        }
        TRY(read_entry(h, key, len, json_iter_value(it), &h->entries[h->n]));
        h->n++;
    }
    return OK;
}

/* The checks in the reference's order.  On OK, entries[] is in the file's order with data set. */
static Status read_header(Header *h, const uint8_t *data, size_t len, bool want_metadata)
{
    if (len < 8)
        return err_set(h->err, E_INPUT,
                       "%s: %zu bytes are too few for a safetensors file (HeaderTooSmall)", h->file,
                       len);
    uint64_t n = 0;
    for (int i = 0; i < 8; i++)
        n |= (uint64_t)data[i] << (8 * i);
    if (n > MAX_HEADER_BYTES)
        return err_set(h->err, E_INPUT,
                       "%s: a header of %llu bytes, at most %u are allowed; is this a safetensors "
                       "file? (HeaderTooLarge)",
                       h->file, (unsigned long long)n, MAX_HEADER_BYTES);
    if (n > len - 8)
        return err_set(h->err, E_INPUT,
                       "%s: a header of %llu bytes in a file of %zu: the file is cut short or no "
                       "safetensors file (InvalidHeaderLength)",
                       h->file, (unsigned long long)n, len);
    const char *text = (const char *)data + 8;
    if (!utf8_valid(text, n))
        return err_set(h->err, E_INPUT, "%s: the header is not UTF-8 (InvalidHeader)", h->file);
    Json *root;
    Err json_err;
    if (json_parse(&root, text, n, "header", 1, JSON_REFUSE_DUPLICATES, &json_err) != OK)
        return err_set(h->err, E_INPUT, "%s: %s (InvalidHeaderDeserialization)", h->file,
                       json_err.line);
    Status s = read_entries(h, root, want_metadata);
    json_free(root);
    TRY(s);

    if (h->n) qsort(h->entries, (size_t)h->n, sizeof *h->entries, by_offset);
    uint64_t end = 0;
    for (int i = 0; i < h->n; i++) {
        Entry *e = &h->entries[i];
        TRY(check_entry(h, e, end));
        end = e->end;
    }
    if (end != len - 8 - n)
        return err_set(h->err, E_INPUT,
                       "%s: the tensors take %llu bytes, the file has %llu behind its header: %s "
                       "(MetadataIncompleteBuffer)",
                       h->file, (unsigned long long)end, (unsigned long long)(len - 8 - n),
                       end > len - 8 - n ? "it is cut short, copy it again"
                                         : "there are bytes that belong to no tensor");
    for (int i = 0; i < h->n; i++) {
        Entry *e = &h->entries[i];
        e->t.data = data + 8 + n + e->begin;
        e->t.bytes = (size_t)(e->end - e->begin);
    }
    return OK;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const SafeTensor *)a)->name, ((const SafeTensor *)b)->name);
}

/* Adds a file's tensors, or of them only those that weight_map assigns to this file. */
static Status add_file(SafeTensors *s, const uint8_t *data, size_t len, const char *path,
                       const Json *weight_map, Err *err)
{
    bool first = s->n == 0 && !s->meta;
    Header h = {.file = keep(s, path, strlen(path)), .s = s, .err = err};
    Status status = read_header(&h, data, len, first);
    if (status == OK) {
        s->tensors = xrealloc(s->tensors, ((size_t)s->n + (size_t)h.n) * sizeof *s->tensors);
        for (int i = 0; i < h.n; i++) {
            const char *in;
            bool mapped =
                !weight_map || (json_str(json_get(weight_map, h.entries[i].t.name), &in, NULL) &&
                                str_eq(in, path_base(path)));
            if (mapped)
                s->tensors[s->n++] = h.entries[i].t;
            else
                s->n_unlisted++;
        }
    }
    free(h.entries);
    return status;
}

static Status map_file(SafeTensors *s, const char *path, const Json *weight_map, Err *err)
{
    FileMap m;
    TRY(file_map(&m, path, err));
    s->maps = xrealloc(s->maps, ((size_t)s->n_maps + 1) * sizeof *s->maps);
    s->maps[s->n_maps++] = m;
    return add_file(s, m.data, m.len, path, weight_map, err);
}

static void sort_tensors(SafeTensors *s)
{
    if (s->n) qsort(s->tensors, (size_t)s->n, sizeof *s->tensors, by_name);
}

/* ---- shards ---- */

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The sorted set of files that the index names; names that lead out of the folder are refused. */
static Status shard_names(const Json *weight_map, const char *index, const char ***out, int *n_out,
                          Err *err)
{
    const char **names = xcalloc(json_size(weight_map), sizeof *names);
    int n = 0, n_unique = 0;
    for (void *it = json_first(weight_map); it; it = json_next(weight_map, it)) {
        const char *name;
        size_t len;
        bool text = json_str(json_iter_value(it), &name, &len);
        if (!text || !*name || strlen(name) != len || strchr(name, '/') || strchr(name, '\\') ||
            str_eq(name, "..") || str_eq(name, ".")) {
            free(names);
            return err_set(
                err, E_INPUT,
                "%s: weight_map: '%s': needs the name of a file in the same folder%s%s%s", index,
                json_iter_key(it), text ? ", got '" : "", text ? name : "", text ? "'" : "");
        }
        names[n++] = name;
    }
    if (n) qsort(names, (size_t)n, sizeof *names, by_text);
    for (int i = 0; i < n; i++)
        if (i == 0 || !str_eq(names[i], names[i - 1])) names[n_unique++] = names[i];
    *out = names;
    *n_out = n_unique;
    return OK;
}

static Status check_all_found(const SafeTensors *s, const Json *weight_map, const char *index,
                              Err *err)
{
    for (void *it = json_first(weight_map); it; it = json_next(weight_map, it)) {
        const char *file;
        if (safetensors_find(s, json_iter_key(it)) || !json_str(json_iter_value(it), &file, NULL))
            continue;
        return err_set(err, E_INPUT, "%s: weight_map: '%s' should be in %s, which does not have it",
                       index, json_iter_key(it), file);
    }
    return OK;
}

static Status open_index(SafeTensors *s, const char *path, Err *err)
{
    Json *root;
    TRY(json_parse_file(&root, path, err));
    const Json *weight_map = json_kind(root) == JK_OBJECT ? json_get(root, "weight_map") : NULL;
    if (!weight_map || json_kind(weight_map) != JK_OBJECT) {
        json_free(root);
        return err_set(err, E_INPUT, "%s: 'weight_map' is missing or no object", path);
    }
    const char **names = NULL;
    int n = 0;
    Status status = shard_names(weight_map, path, &names, &n, err);
    if (status == OK) {
        char *dir = xstrndup(path, (size_t)(path_base(path) - path));
        for (int i = 0; i < n && status == OK; i++) {
            char *file = path_join(dir, names[i]);
            status = map_file(s, file, weight_map, err);
            free(file);
        }
        free(dir);
        free(names);
    }
    sort_tensors(s);
    if (status == OK) status = check_all_found(s, weight_map, path, err);
    json_free(root);
    return status;
}

static Status open_folder(SafeTensors *s, const char *dir, Err *err)
{
    char *file = path_join(dir, "model.safetensors");
    char *index = path_join(dir, "model.safetensors.index.json");
    char *pickle = path_join(dir, "pytorch_model.bin");
    Status status;
    if (path_exists(file))
        status = map_file(s, file, NULL, err);
    else if (path_exists(index))
        status = open_index(s, index, err);
    else
        status =
            err_set(err, E_INPUT,
                    "%s: has neither model.safetensors nor model.safetensors.index.json%s", dir,
                    path_exists(pickle) ? "; pytorch_model.bin is not read, save the model as "
                                          "safetensors"
                                        : "");
    free(file);
    free(index);
    free(pickle);
    return status;
}

Status safetensors_open(SafeTensors **out, const char *path, Err *err)
{
    SafeTensors *s = safetensors_new();
    Status status;
    if (path_is_dir(path))
        status = open_folder(s, path, err);
    else if (str_ends(path, ".json"))
        status = open_index(s, path, err);
    else
        status = map_file(s, path, NULL, err);
    if (status != OK) {
        safetensors_close(s);
        return status;
    }
    sort_tensors(s);
    *out = s;
    return OK;
}

Status safetensors_parse(SafeTensors **out, const uint8_t *data, size_t len, const char *name,
                         Err *err)
{
    SafeTensors *s = safetensors_new();
    Status status = add_file(s, data, len, name, NULL, err);
    if (status != OK) {
        safetensors_close(s);
        return status;
    }
    sort_tensors(s);
    *out = s;
    return OK;
}

int safetensors_count(const SafeTensors *s)
{
    return s->n;
}

const SafeTensor *safetensors_at(const SafeTensors *s, int i)
{
    return i >= 0 && i < s->n ? &s->tensors[i] : NULL;
}

const SafeTensor *safetensors_find(const SafeTensors *s, const char *name)
{
    SafeTensor key = {.name = name};
    return s->n ? bsearch(&key, s->tensors, (size_t)s->n, sizeof key, by_name) : NULL;
}

const char *safetensors_meta(const SafeTensors *s, const char *key)
{
    for (int i = 0; i < s->n_meta; i++)
        if (str_eq(s->meta[2 * i], key)) return s->meta[2 * i + 1];
    return NULL;
}

bool safetensors_meta_at(const SafeTensors *s, int i, const char **key, const char **value)
{
    if (i < 0 || i >= s->n_meta) return false;
    *key = s->meta[2 * i];
    *value = s->meta[2 * i + 1];
    return true;
}

int safetensors_unlisted(const SafeTensors *s)
{
    return s->n_unlisted;
}
