/* Checksums go by ranges of 16 MiB, so that ranks can write and check their parts of one file. */
#include "trainer/manifest.h"

#include "base/fs.h"
#include "base/hash.h"
#include "base/str.h"

#include <stdlib.h>
#include <string.h>

enum { VERSION = 1, RANGE_BYTES = 16 << 20 };

static uint64_t base_hash(Session *s);

/* ---- files ------------------------------------------------------------------------------------ */

/* Ranges of all files are dealt out to the ranks in turn. */
typedef struct Share {
    int rank, size;
    int64_t next;
} Share;

static bool is_mine(Share *s)
{
    return s->next++ % s->size == s->rank;
}

static size_t count_ranges(size_t bytes)
{
    return (bytes + RANGE_BYTES - 1) / RANGE_BYTES;
}

static uint32_t sum_range(const FileMap *m, size_t i)
{
    size_t at = i * RANGE_BYTES, n = m->len - at < RANGE_BYTES ? m->len - at : RANGE_BYTES;
    return crc32c(0, m->data + at, n);
}

/* A file of the checkpoint and its checksums. */
typedef struct Sums {
    char *name;
    size_t bytes, first; /* of the sums of all files, its first */
} Sums;

typedef struct SumList {
    Sums *files;
    int n;
    uint32_t *sums;
    size_t n_sums;
} SumList;

static void sums_clear(SumList *l)
{
    for (int i = 0; i < l->n; i++)
        free(l->files[i].name);
    free(l->files);
    free(l->sums);
    *l = (SumList){0};
}

static Status list_files(SumList *l, const char *dir, Err *err)
{
    char **names;
    int n;
    TRY(dir_list(&names, &n, dir, err));
    Status s = OK;
    l->files = xcalloc((size_t)n + 1, sizeof *l->files);
    for (int i = 0; i < n && s == OK; i++) {
        char *path = path_join(dir, names[i]);
        FileMap m;
        if (!path_is_dir(path)) {
            s = file_map(&m, path, err);
            if (s == OK) {
                l->files[l->n++] = (Sums){xstrdup(names[i]), m.len, l->n_sums};
                l->n_sums += count_ranges(m.len);
                file_unmap(&m);
            }
        }
        free(path);
    }
    dir_list_free(names, n);
    l->sums = xcalloc(l->n_sums + 1, sizeof *l->sums);
    return s;
}

static Status sum_files(SumList *l, const char *dir, Share share, Err *err)
{
    Status s = OK;
    for (int i = 0; i < l->n && s == OK; i++) {
        char *path = path_join(dir, l->files[i].name);
        FileMap m;
        s = file_map(&m, path, err);
        if (s == OK && m.len != l->files[i].bytes)
            s = err_set(err, E_FAILED, "%s: has changed while it was summed up", path);
        for (size_t k = 0; s == OK && k < count_ranges(m.len); k++)
            if (is_mine(&share)) l->sums[l->files[i].first + k] = sum_range(&m, k);
        if (s == OK) file_unmap(&m);
        free(path);
    }
    return s;
}

/* All ranks: each reads its share, every one has all sums. */
static Status sum_up(SumList *l, Comm *ranks, const char *dir, Err *err)
{
    TRY(comm_agree(ranks, list_files(l, dir, err), err));
    Share share = {.rank = ranks->rank, .size = ranks->size};
    int64_t n = (int64_t)l->n_sums, *counts = xcalloc((size_t)ranks->size, sizeof *counts);
    comm_exchange(ranks, counts, &n, sizeof n);
    Status s = OK;
    for (int i = 0; i < ranks->size; i++)
        if (counts[i] != counts[0])
            s = err_set(err, E_FAILED, "%s: ranks see other files there", dir);
    free(counts);
    TRY(s);
    TRY(comm_agree(ranks, sum_files(l, dir, share, err), err));
    size_t bytes = l->n_sums * sizeof *l->sums;
    uint32_t *all = xmalloc(bytes * (size_t)ranks->size + 1);
    comm_exchange(ranks, all, l->sums, bytes);
    for (size_t k = 0; k < l->n_sums; k++)
        l->sums[k] = all[k % (size_t)ranks->size * l->n_sums + k];
    free(all);
    return OK;
}

static void write_files(StrBuf *b, const SumList *l)
{
    for (int i = 0; i < l->n; i++) {
        const Sums *f = &l->files[i];
        strbuf_puts(b, i ? ",\n    " : "\n    ");
        json_write_string(b, f->name, strlen(f->name));
        strbuf_printf(b, ": {\"bytes\": %zu, \"crc32c\": [", f->bytes);
        for (size_t k = 0; k < count_ranges(f->bytes); k++)
            strbuf_printf(b, "%s%u", k ? ", " : "", l->sums[f->first + k]);
        strbuf_puts(b, "]}");
    }
}

static Status verify_file(const char *dir, const char *name, const Json *entry, Share *share,
                          Err *err)
{
    int64_t bytes = -1, crc = -1;
    char *path = path_join(dir, name);
    FileMap m;
    Status s = file_map(&m, path, err);
    free(path);
    TRY(s);
    const Json *sums = json_get(entry, "crc32c");
    size_t n_ranges = count_ranges(m.len);
    if (!json_int(json_get(entry, "bytes"), &bytes) || (size_t)bytes != m.len ||
        json_size(sums) != n_ranges)
        s = err_set(err, E_INPUT, "%s/%s: has %zu bytes, the manifest says %lld", dir, name, m.len,
                    (long long)bytes);
    for (size_t i = 0; i < n_ranges && s == OK; i++) {
        if (!is_mine(share)) continue;
        size_t at = i * RANGE_BYTES, n = m.len - at < RANGE_BYTES ? m.len - at : RANGE_BYTES;
        if (!json_int(json_at(sums, i), &crc) || crc != (int64_t)sum_range(&m, i))
            s = err_set(err, E_INPUT, "%s/%s: checksum differs in bytes %zu to %zu", dir, name, at,
                        at + n - 1);
    }
    file_unmap(&m);
    return s;
}

/* ---- writing ---------------------------------------------------------------------------------- */

static void write_config_key(void *ud, const char *key, const char *value)
{
    StrBuf *b = ud;
    if (b->data[b->len - 1] != '{') strbuf_putc(b, ',');
    strbuf_printf(b, "\n    \"%s\": ", key);
    json_write_string(b, value, strlen(value));
}

static void write_run(StrBuf *b, const RunState *r)
{
    strbuf_printf(b,
                  "  \"step\": %lld,\n  \"epoch\": %lld,\n  \"epoch_step\": %lld,\n"
                  "  \"samples\": %lld,\n  \"best_step\": %lld,\n  \"best_loss\": ",
                  (long long)r->step, (long long)r->epoch, (long long)r->epoch_step,
                  (long long)r->samples, (long long)r->best_step);
    json_write_number(b, r->best_loss);
    strbuf_printf(b,
                  ",\n  \"evals_since_best\": %lld,\n  \"evaluated\": %lld,\n  \"stopped\": %s,\n"
                  "  \"recent\": [",
                  (long long)r->evals_since_best, (long long)r->evaluated,
                  r->stopped ? "true" : "false");
    for (int i = 0; i < RECENT_LOSSES; i++) {
        if (i) strbuf_puts(b, ", ");
        json_write_number(b, r->recent[i]);
    }
    strbuf_puts(b, "],\n");
}

static Status write_manifest(const Session *s, const RunState *run, uint64_t base,
                             const SumList *sums, const char *dir, Err *err)
{
    StrBuf b = {0};
    strbuf_printf(&b, "{\n  \"format\": \"lorac checkpoint\",\n  \"version\": %d,\n", VERSION);
    write_run(&b, run);
    strbuf_printf(&b, "  \"data_hash\": \"%016llx\",\n  \"base_hash\": \"%016llx\",\n",
                  (unsigned long long)s->data_hash, (unsigned long long)base);
    strbuf_puts(&b, "  \"config\": {");
    config_visit_math(s->cfg, write_config_key, &b);
    strbuf_puts(&b, "\n  },\n  \"files\": {");
    write_files(&b, sums);
    strbuf_puts(&b, "\n  }\n}\n");
    char *path = path_join(dir, "manifest.json");
    Status status = file_write_atomic(path, b.data, b.len, err);
    free(path);
    strbuf_clear(&b);
    return status;
}

Status manifest_write(Session *s, const RunState *run, const char *dir, Err *err)
{
    uint64_t base = base_hash(s);
    SumList sums = {0};
    Status status = sum_up(&sums, s->hosts, dir, err);
    if (status == OK && session_leads(s)) status = write_manifest(s, run, base, &sums, dir, err);
    sums_clear(&sums);
    return comm_agree(s->hosts, status, err);
}

/* ---- reading ---------------------------------------------------------------------------------- */

Status manifest_verify(Json **out, const char *dir, int rank, int size, Err *err)
{
    Share share = {.rank = rank, .size = size};
    char *path = path_join(dir, "manifest.json");
    Json *root = NULL;
    Status s = json_parse_file(&root, path, err);
    int64_t version = 0;
    const char *format = NULL;
    if (s == OK &&
        (!json_str(json_get(root, "format"), &format, NULL) || !str_eq(format, "lorac checkpoint")))
        s = err_set(err, E_INPUT, "%s: is no manifest of a checkpoint", path);
    if (s == OK && (!json_int(json_get(root, "version"), &version) || version != VERSION))
        s = err_set(err, E_INPUT, "%s: version %lld, this program reads %d", path,
                    (long long)version, VERSION);
    free(path);
    const Json *files = json_get(root, "files");
    for (void *it = json_first(files); it && s == OK; it = json_next(files, it))
        s = verify_file(dir, json_iter_key(it), json_iter_value(it), &share, err);
    if (s == OK && !json_get(files, "state.safetensors"))
        s = err_set(err, E_INPUT, "%s: the manifest names no state.safetensors", dir);
    if (s == OK)
        *out = root;
    else
        json_free(root);
    return s;
}

Status manifest_run(RunState *run, const Json *m, const char *dir, Err *err)
{
    RunState r = {0};
    const Json *recent = json_get(m, "recent");
    bool ok = json_int(json_get(m, "step"), &r.step) && json_int(json_get(m, "epoch"), &r.epoch) &&
              json_int(json_get(m, "epoch_step"), &r.epoch_step) &&
              json_int(json_get(m, "samples"), &r.samples) &&
              json_int(json_get(m, "best_step"), &r.best_step) &&
              json_number(json_get(m, "best_loss"), &r.best_loss) &&
              json_int(json_get(m, "evals_since_best"), &r.evals_since_best) &&
              json_int(json_get(m, "evaluated"), &r.evaluated) &&
              json_bool(json_get(m, "stopped"), &r.stopped);
    for (int i = 0; i < RECENT_LOSSES; i++)
        ok = ok && json_number(json_at(recent, (size_t)i), &r.recent[i]);
    if (!ok || r.step < 0 || r.epoch < 0 || r.epoch_step < 0)
        return err_set(err, E_INPUT,
                       "%s/manifest.json: the position in the run is missing or wrong", dir);
    *run = r;
    return OK;
}

typedef struct Compare {
    const Session *s;
    const Json *config;
    const char *dir;
    Problems *problems;
} Compare;

/* A key that one side does not have follows from another that differs. */
static void compare_key(void *ud, const char *key, const char *value)
{
    Compare *c = ud;
    const char *was;
    if (!json_str(json_get(c->config, key), &was, NULL) || str_eq(was, value)) return;
    config_problem(
        c->s->cfg, c->problems, key,
        "is %s, and %s was made with %s; set it back, or start anew in another output folder",
        value, c->dir, was);
}

static bool same_hash(const Json *m, const char *key, uint64_t now)
{
    char text[20];
    const char *was;
    snprintf(text, sizeof text, "%016llx", (unsigned long long)now);
    return json_str(json_get(m, key), &was, NULL) && str_eq(was, text);
}

void manifest_compare(Session *s, const Json *m, const char *dir, Problems *problems)
{
    Compare c = {s, json_get(m, "config"), dir, problems};
    int before = problems->n;
    config_visit_math(s->cfg, compare_key, &c);
    if (problems->n > before) return; /* other data would follow from other keys */
    const char *advice = "start anew in another output folder";
    if (!same_hash(m, "data_hash", s->data_hash))
        config_problem(s->cfg, problems, "data.train",
                       "its tokens are not those that %s was trained on; %s", dir, advice);
    if (!same_hash(m, "base_hash", base_hash(s)))
        config_problem(s->cfg, problems, "model.path",
                       "the base is not the one that %s was trained on; %s", dir, advice);
}

/* The first row's bytes as they are kept, codes of a quantised one; in fresh memory. */
static void *first_row(Device *d, const Param *p, size_t *bytes)
{
    const Quant *q = p->t.quant;
    Tensor row = p->t.n_dims == 1 || q ? p->t : tensor_slice_rows(&p->t, 0, 1);
    *bytes = (size_t)tensor_cols(&row) * dtype_bytes(row.dtype);
    if (q) {
        int64_t n = (int64_t)quant_codes_bytes(&q->parts[0]) / q->parts[0].rows;
        row = tensor_shape(DT_U8, 1, &n);
        row.storage = q->packed.storage;
        row.offset = q->packed.offset + q->parts[0].codes;
        *bytes = (size_t)n;
    }
    void *host = xmalloc(*bytes);
    if (p->on_host)
        memcpy(host, p->host, *bytes);
    else
        tensor_read(d, &row, host);
    return host;
}

/* Of the first row of every frozen parameter: enough to tell one base from another. */
static uint64_t base_hash(Session *s)
{
    uint64_t h = 0;
    const ParamSet *ps = &s->model.params;
    for (int i = 0; i < ps->n; i++) {
        Param *p = ps->items[i];
        if (p->trained) continue;
        param_open(p);
        size_t bytes;
        void *host = first_row(&s->dev, p, &bytes);
        param_close(p, false);
        h = hash64(p->name, strlen(p->name), h);
        h = hash64(host, bytes, h);
        free(host);
    }
    shards_end_pass(&s->shards);
    return h;
}
