/* Writing safetensors: files are byte for byte what the reference library writes for the same tensors,
 * and no reader ever sees half of one. */
#include "base/json.h"
#include "tensor/safetensors.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct Ranked {
    const SafeTensor *t;
    int index;
} Ranked;

/* Larger elements first keeps every tensor aligned. */
static int by_rank(const void *a, const void *b)
{
    const SafeTensor *x = ((const Ranked *)a)->t, *y = ((const Ranked *)b)->t;
    if (x->dtype != y->dtype) return x->dtype > y->dtype ? -1 : 1;
    return strcmp(x->name, y->name);
}

static Status check_tensor(const SafeTensor *t, Err *err)
{
    uint64_t bits = (uint64_t)safe_dtype_bits(t->dtype);
    bool overflow = false;
    for (int i = 0; i < t->n_dims; i++)
        overflow = overflow || t->shape[i] < 0 ||
                   __builtin_mul_overflow(bits, (uint64_t)t->shape[i], &bits);
    if (overflow || bits % 8 || bits / 8 != t->bytes)
        return err_set(err, E_FAILED, "tensor '%s': %zu bytes do not fit its shape and %s", t->name,
                       t->bytes, safe_dtype_name(t->dtype));
    if (str_eq(t->name, "__metadata__") || !utf8_valid(t->name, strlen(t->name)))
        return err_set(err, E_FAILED, "tensor '%s': no name for a tensor", t->name);
    return OK;
}

static void write_metadata(StrBuf *b, const char *const *meta)
{
    strbuf_puts(b, "\"__metadata__\":{");
    for (int i = 0; meta[i]; i += 2) {
        if (i) strbuf_putc(b, ',');
        json_write_string(b, meta[i], strlen(meta[i]));
        strbuf_putc(b, ':');
        json_write_string(b, meta[i + 1], strlen(meta[i + 1]));
    }
    strbuf_putc(b, '}');
}

static void write_entry(StrBuf *b, const SafeTensor *t, uint64_t begin)
{
    json_write_string(b, t->name, strlen(t->name));
    strbuf_printf(b, ":{\"dtype\":\"%s\",\"shape\":[", safe_dtype_name(t->dtype));
    for (int i = 0; i < t->n_dims; i++)
        strbuf_printf(b, "%s%" PRId64, i ? "," : "", t->shape[i]);
    strbuf_printf(b, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", begin, begin + t->bytes);
}

Status safetensors_header(StrBuf *out, int *order, const SafeTensor *tensors, int n,
                          const char *const *meta, Err *err)
{
    for (int i = 0; i < n; i++)
        TRY(check_tensor(&tensors[i], err));
    Ranked *ranked = xcalloc((size_t)n, sizeof *ranked);
    for (int i = 0; i < n; i++)
        ranked[i] = (Ranked){&tensors[i], i};
    if (n) qsort(ranked, (size_t)n, sizeof *ranked, by_rank);

    size_t from = out->len;
    uint64_t begin = 0;
    strbuf_putc(out, '{');
    if (meta) write_metadata(out, meta);
    for (int k = 0; k < n; k++) {
        if (k || meta) strbuf_putc(out, ',');
        write_entry(out, ranked[k].t, begin);
        begin += ranked[k].t->bytes;
        order[k] = ranked[k].index;
    }
    strbuf_putc(out, '}');
    while ((out->len - from) % 8)
        strbuf_putc(out, ' ');
    free(ranked);
    if (out->len - from > 100000000)
        return err_set(err, E_FAILED, "a safetensors header of %zu bytes (HeaderTooLarge)",
                       out->len - from);
    return OK;
}

static Status full_header(StrBuf *out, int *order, const SafeTensor *tensors, int n,
                          const char *const *meta, Err *err)
{
    StrBuf json = {0};
    Status s = safetensors_header(&json, order, tensors, n, meta, err);
    for (int i = 0; i < 8; i++)
        strbuf_putc(out, (char)((uint64_t)json.len >> (8 * i)));
    strbuf_append(out, json.data, json.len);
    strbuf_clear(&json);
    return s;
}

/* The same name twice, which the order by dtype may have parted. */
static Status check_names(const SafeTensor *tensors, int n, Err *err)
{
    Ranked *ranked = xcalloc((size_t)n, sizeof *ranked);
    SafeTensor *names = xcalloc((size_t)n, sizeof *names); /* of one dtype: sorted by name alone */
    for (int i = 0; i < n; i++) {
        names[i].name = tensors[i].name;
        ranked[i].t = &names[i];
    }
    if (n) qsort(ranked, (size_t)n, sizeof *ranked, by_rank);
    Status s = OK;
    for (int i = 1; i < n && s == OK; i++)
        if (str_eq(ranked[i].t->name, ranked[i - 1].t->name))
            s = err_set(err, E_FAILED, "tensor '%s': the name stands twice", ranked[i].t->name);
    free(names);
    free(ranked);
    return s;
}

static Status write_tensor(FileOut *f, const SafeTensor *t, SafeSource *source, void *ud, Err *err)
{
    if (t->bytes == 0) return OK;
    if (t->data) {
        file_out_write(f, t->data, t->bytes);
        return OK;
    }
    ASSERT(source, "tensor '%s' has no data and no source", t->name);
    uint64_t before = f->total;
    TRY(source(ud, t, f, err));
    ASSERT(f->error || f->total - before == t->bytes, "tensor '%s': %llu bytes written of %zu",
           t->name, (unsigned long long)(f->total - before), t->bytes);
    return OK;
}

static Status write_body(FileOut *f, const char *path, const SafeTensor *tensors, int n,
                         const char *const *meta, SafeSource *source, void *ud, Err *err)
{
    StrBuf header = {0};
    int *order = xcalloc((size_t)n, sizeof *order);
    Status s = full_header(&header, order, tensors, n, meta, err);
    if (s == OK)
        file_out_write(f, header.data, header.len);
    else
        err_wrap(err, s, "%s", path);
    for (int k = 0; k < n && s == OK; k++)
        s = write_tensor(f, &tensors[order[k]], source, ud, err);
    free(order);
    strbuf_clear(&header);
    return s;
}

Status safetensors_write(const char *path, const SafeTensor *tensors, int n,
                         const char *const *meta, SafeSource *source, void *ud, Err *err)
{
    TRY(check_names(tensors, n, err));
    int n_meta = 0;
    while (meta && meta[n_meta])
        n_meta += 2;
    const char **all = xcalloc((size_t)n_meta + 3, sizeof *all);
    all[0] = "format", all[1] = "pt"; /* some versions of transformers cannot do without */
    for (int i = 0; i < n_meta; i++)
        all[2 + i] = meta[i];

    char *tmp = str_format("%s.tmp.%ld", path, (long)getpid());
    FileOut f;
    Status s = file_out_open(&f, tmp, err);
    if (s == OK) {
        s = write_body(&f, path, tensors, n, all, source, ud, err);
        if (s == OK) {
            s = file_out_close(&f, err);
            if (s == OK) s = file_rename(tmp, path, err);
            if (s != OK) unlink(tmp);
        } else {
            file_out_abort(&f);
        }
    }
    free(tmp);
    free(all);
    return s;
}

/* ---- shards ---- */

static const char index_name[] = "model.safetensors.index.json";

/* As huggingface_hub splits: first come, no bin packing.  A shard gets its number when it is closed, so
 * that a tensor with a shard of its own stands before the one that was open. */
static int plan_shards(const SafeTensor *tensors, int n, uint64_t max_bytes, int *shard_of)
{
    enum { OPEN = -1 };
    int n_shards = 0, n_open = 0;
    uint64_t filled = 0;
    if (n == 0) return 1;
    for (int i = 0; i <= n; i++) {
        uint64_t bytes = i < n ? tensors[i].bytes : 0;
        if (i < n && bytes > max_bytes) {
            shard_of[i] = n_shards++;
            continue;
        }
        if (n_open && (i == n || filled + bytes > max_bytes)) {
            for (int k = 0; k < i; k++)
                if (shard_of[k] == OPEN) shard_of[k] = n_shards;
            n_shards++;
            n_open = 0;
            filled = 0;
        }
        if (i == n) break;
        shard_of[i] = OPEN;
        n_open++;
        filled += bytes;
    }
    return n_shards;
}

static char *shard_name(int k, int n_shards)
{
    if (n_shards == 1) return xstrdup("model.safetensors");
    return str_format("model-%05d-of-%05d.safetensors", k + 1, n_shards);
}

static bool is_weight_file(const char *name)
{
    static const char shape[] = "model-#####-of-#####.safetensors";
    if (str_eq(name, "model.safetensors") || str_eq(name, index_name)) return true;
    if (strlen(name) != strlen(shape)) return false;
    for (int i = 0; shape[i]; i++) {
        bool digit = name[i] >= '0' && name[i] <= '9';
        if (shape[i] == '#' ? !digit : name[i] != shape[i]) return false;
    }
    return true;
}

Status safetensors_remove_stale(const char *dir, int n_shards, Err *err)
{
    char **names;
    int n;
    TRY(dir_list(&names, &n, dir, err));
    char *suffix = str_format("-of-%05d.safetensors", n_shards);
    Status s = OK;
    for (int i = 0; i < n && s == OK; i++) {
        bool part = n_shards == 1 ? str_eq(names[i], "model.safetensors")
                                  : str_eq(names[i], index_name) ||
                                        (str_ends(names[i], suffix) &&
                                         atoi(names[i] + strlen("model-")) <= n_shards);
        if (part || !is_weight_file(names[i])) continue;
        char *path = path_join(dir, names[i]);
        s = dir_remove(path, err);
        free(path);
    }
    free(suffix);
    dir_list_free(names, n);
    return s;
}

static int ranked_by_name(const void *a, const void *b)
{
    return strcmp(((const Ranked *)a)->t->name, ((const Ranked *)b)->t->name);
}

/* As transformers writes it: indented by 2, keys sorted, a newline at the end. */
static void make_index(StrBuf *b, const SafeTensor *tensors, int n, const int *shard_of,
                       int n_shards)
{
    Ranked *ranked = xcalloc((size_t)n, sizeof *ranked);
    uint64_t bytes = 0, parameters = 0;
    for (int i = 0; i < n; i++) {
        ranked[i] = (Ranked){&tensors[i], i};
        bytes += tensors[i].bytes;
        parameters += (uint64_t)safe_numel(&tensors[i]);
    }
    qsort(ranked, (size_t)n, sizeof *ranked, ranked_by_name);
    strbuf_printf(b,
                  "{\n  \"metadata\": {\n    \"total_parameters\": %" PRIu64
                  ",\n    \"total_size\": %" PRIu64 "\n  },\n  \"weight_map\": {",
                  parameters, bytes);
    for (int i = 0; i < n; i++) {
        char *file = shard_name(shard_of[ranked[i].index], n_shards);
        strbuf_puts(b, i ? ",\n    " : "\n    ");
        json_write_string(b, ranked[i].t->name, strlen(ranked[i].t->name));
        strbuf_printf(b, ": \"%s\"", file);
        free(file);
    }
    strbuf_puts(b, "\n  }\n}\n");
    free(ranked);
}

static Status write_index(const char *dir, const SafeTensor *tensors, int n, const int *shard_of,
                          int n_shards, Err *err)
{
    if (n_shards == 1) return OK;
    StrBuf b = {0};
    make_index(&b, tensors, n, shard_of, n_shards);
    char *path = path_join(dir, index_name);
    Status s = file_write_atomic(path, b.data, b.len, err);
    free(path);
    strbuf_clear(&b);
    return s;
}

static Status write_shard(const char *dir, const char *name, const SafeTensor *tensors, int n,
                          const int *shard_of, int k, SafeSource *source, void *ud, Err *err)
{
    SafeTensor *part = xcalloc((size_t)n, sizeof *part);
    int n_part = 0;
    for (int i = 0; i < n; i++)
        if (shard_of[i] == k) part[n_part++] = tensors[i];
    char *path = path_join(dir, name);
    Status s = safetensors_write(path, part, n_part, NULL, source, ud, err);
    free(path);
    free(part);
    return s;
}

Status safetensors_write_model(const char *dir, const SafeTensor *tensors, int n,
                               uint64_t max_shard_bytes, SafeSource *source, void *ud, Err *err)
{
    TRY(check_names(tensors, n, err));
    dir_sweep(dir, "model");
    int *shard_of = xcalloc((size_t)n, sizeof *shard_of);
    int n_shards = plan_shards(tensors, n, max_shard_bytes, shard_of);
    Status s = OK;
    for (int k = 0; k < n_shards && s == OK; k++) {
        char *name = shard_name(k, n_shards);
        s = write_shard(dir, name, tensors, n, shard_of, k, source, ud, err);
        free(name);
    }
    if (s == OK) s = write_index(dir, tensors, n, shard_of, n_shards, err);
    if (s == OK) s = safetensors_remove_stale(dir, n_shards, err);
    free(shard_of);
    return s;
}

/* ---- layouts ---- */

/* The tensors of file k. */
static Status lay_out_file(SafeLayout *l, int k, const SafeTensor *tensors, int n,
                           const char *const *meta, Err *err)
{
    SafeFile *f = &l->files[k];
    SafeTensor *part = xcalloc((size_t)n, sizeof *part);
    int n_part = 0, *index = xcalloc((size_t)n, sizeof *index),
        *order = xcalloc((size_t)n, sizeof *order);
    for (int i = 0; i < n; i++) {
        if (l->file_of[i] != k) continue;
        index[n_part] = i;
        part[n_part++] = tensors[i];
    }
    Status s = full_header(&f->header, order, part, n_part, meta, err);
    f->bytes = f->header.len;
    for (int i = 0; i < n_part && s == OK; i++) {
        l->offsets[index[order[i]]] = f->bytes;
        f->bytes += part[order[i]].bytes;
    }
    free(part);
    free(index);
    free(order);
    return s;
}

static void layout_init(SafeLayout *l, int n, int n_files, int *file_of)
{
    *l = (SafeLayout){.n_files = n_files, .file_of = file_of};
    l->offsets = xcalloc((size_t)n, sizeof *l->offsets);
    l->files = xcalloc((size_t)n_files, sizeof *l->files);
}

void safetensors_layout_clear(SafeLayout *l)
{
    for (int i = 0; i < l->n_files; i++) {
        free(l->files[i].name);
        strbuf_clear(&l->files[i].header);
    }
    free(l->files);
    free(l->file_of);
    free(l->offsets);
    strbuf_clear(&l->index);
    *l = (SafeLayout){0};
}

static Status lay_out(SafeLayout *l, const SafeTensor *tensors, int n, const char *const *meta,
                      Err *err)
{
    Status s = check_names(tensors, n, err);
    for (int k = 0; k < l->n_files && s == OK; k++)
        s = lay_out_file(l, k, tensors, n, meta, err);
    if (s != OK) safetensors_layout_clear(l);
    return s;
}

Status safetensors_layout(SafeLayout *out, const char *name, const SafeTensor *tensors, int n,
                          const char *const *meta, Err *err)
{
    layout_init(out, n, 1, xcalloc((size_t)n, sizeof(int)));
    out->files[0].name = xstrdup(name);
    return lay_out(out, tensors, n, meta, err);
}

Status safetensors_layout_model(SafeLayout *out, const SafeTensor *tensors, int n,
                                uint64_t max_shard_bytes, Err *err)
{
    static const char *const meta[] = {"format", "pt", NULL};
    int *shard_of = xcalloc((size_t)n, sizeof *shard_of);
    int n_shards = plan_shards(tensors, n, max_shard_bytes, shard_of);
    layout_init(out, n, n_shards, shard_of);
    for (int k = 0; k < n_shards; k++)
        out->files[k].name = shard_name(k, n_shards);
    if (n_shards > 1) make_index(&out->index, tensors, n, shard_of, n_shards);
    return lay_out(out, tensors, n, meta, err);
}
