/* Checksums go by ranges of 16 MiB, so that ranks can check their parts of one file. */
#include "trainer/manifest.h"

#include "base/fs.h"
#include "base/hash.h"
#include "base/str.h"

#include <stdlib.h>
#include <string.h>

enum { VERSION = 3 };

/* The last key: a checksum of all bytes before it. */
static const char SEAL[] = ",\n  \"crc32c\": ";

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

static uint32_t sum_range(const FileMap *m, size_t i)
{
    size_t at = i * MANIFEST_RANGE, n = m->len - at < MANIFEST_RANGE ? m->len - at : MANIFEST_RANGE;
    return crc32c(0, m->data + at, n);
}

static void write_sums(StrBuf *b, const ManifestFile *f)
{
    json_write_string(b, f->name, strlen(f->name));
    strbuf_printf(b, ": {\"bytes\": %llu, \"crc32c\": [", (unsigned long long)f->bytes);
    for (size_t k = 0; k < manifest_ranges(f->bytes); k++)
        strbuf_printf(b, "%s%u", k ? ", " : "", f->sums[k]);
    strbuf_puts(b, "]}");
}

static Status sum_up(StrBuf *b, const char *dir, const char *name, Err *err)
{
    FileMap m;
    char *path = path_join(dir, name);
    Status s = file_map(&m, path, err);
    free(path);
    TRY(s);
    uint32_t *sums = xcalloc(manifest_ranges(m.len), sizeof *sums);
    for (size_t k = 0; k < manifest_ranges(m.len); k++)
        sums[k] = sum_range(&m, k);
    write_sums(b, &(ManifestFile){name, m.len, sums});
    free(sums);
    file_unmap(&m);
    return OK;
}

static const ManifestFile *find_known(const ManifestFile *known, int n, const char *name)
{
    for (int i = 0; i < n; i++)
        if (str_eq(known[i].name, name)) return &known[i];
    return NULL;
}

static Status write_files(StrBuf *b, const ManifestFile *known, int n_known, const char *dir,
                          Err *err)
{
    char **names;
    int n;
    TRY(dir_list(&names, &n, dir, err));
    Status s = OK;
    for (int i = 0; i < n && s == OK; i++) {
        const ManifestFile *f = find_known(known, n_known, names[i]);
        strbuf_puts(b, i ? ",\n    " : "\n    ");
        if (f)
            write_sums(b, f);
        else
            s = sum_up(b, dir, names[i], err);
    }
    dir_list_free(names, n);
    return s;
}

Status manifest_check_file(const char *dir, const ManifestFile *file, Err *err)
{
    FileMap m;
    char *path = path_join(dir, file->name);
    Status s = file_map(&m, path, err);
    bool same = s == OK && m.len == file->bytes;
    for (size_t k = 0; same && k < manifest_ranges(m.len); k++)
        same = sum_range(&m, k) == file->sums[k];
    if (s == OK) file_unmap(&m);
    if (s == OK && !same) s = err_set(err, E_FAILED, "%s: is not what was written to it", path);
    free(path);
    return s;
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
    size_t n_ranges = manifest_ranges(m.len);
    if (!json_int(json_get(entry, "bytes"), &bytes) || (size_t)bytes != m.len ||
        json_size(sums) != n_ranges)
        s = err_set(err, E_INPUT, "%s/%s: has %zu bytes, the manifest says %lld", dir, name, m.len,
                    (long long)bytes);
    for (size_t i = 0; i < n_ranges && s == OK; i++) {
        if (!is_mine(share)) continue;
        size_t at = i * MANIFEST_RANGE,
               n = m.len - at < MANIFEST_RANGE ? m.len - at : MANIFEST_RANGE;
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

Status manifest_write(const ManifestHead *head, const ManifestFile *known, int n, const char *dir,
                      Err *err)
{
    StrBuf b = {0};
    strbuf_printf(&b, "{\n  \"format\": \"lorac checkpoint\",\n  \"version\": %d,\n", VERSION);
    write_run(&b, &head->run);
    strbuf_printf(&b, "  \"data_hash\": \"%016llx\",\n  \"base_hash\": \"%016llx\",\n",
                  (unsigned long long)head->session->data_hash,
                  (unsigned long long)head->base_hash);
    strbuf_puts(&b, "  \"config\": {");
    config_visit_math(head->session->cfg, write_config_key, &b);
    strbuf_puts(&b, "\n  },\n  \"files\": {");
    Status status = write_files(&b, known, n, dir, err);
    strbuf_puts(&b, "\n  }");
    const uint32_t sum = crc32c(0, b.data, b.len);
    strbuf_printf(&b, "%s%u\n}\n", SEAL, sum);
    char *path = path_join(dir, "manifest.json");
    if (status == OK) status = file_write_atomic(path, b.data, b.len, err);
    free(path);
    strbuf_clear(&b);
    return status;
}

/* ---- reading ---------------------------------------------------------------------------------- */

/* Whether text[0..len) ends as manifest_write ends it, with the checksum of what is before. */
static bool is_sealed(const char *text, size_t len)
{
    char end[sizeof SEAL + 16];
    for (size_t n = sizeof SEAL; n < sizeof end && n <= len; n++) {
        if (memcmp(text + len - n, SEAL, sizeof SEAL - 1) != 0) continue;
        snprintf(end, sizeof end, "%s%u\n}\n", SEAL, crc32c(0, text, len - n));
        return strlen(end) == n && memcmp(text + len - n, end, n) == 0;
    }
    return false;
}

Status manifest_read(Json **out, const char *dir, Err *err)
{
    char *path = path_join(dir, "manifest.json"), *text = NULL;
    size_t len = 0;
    Json *root = NULL;
    Status s = file_read(&text, &len, path, err);
    if (s == OK) s = json_parse(&root, text, len, path, 1, JSON_REFUSE_DUPLICATES, err);
    int64_t version = 0;
    const char *format = NULL;
    if (s == OK &&
        (!json_str(json_get(root, "format"), &format, NULL) || !str_eq(format, "lorac checkpoint")))
        s = err_set(err, E_INPUT, "%s: is no manifest of a checkpoint", path);
    if (s == OK && (!json_int(json_get(root, "version"), &version) || version != VERSION))
        s = err_set(err, E_INPUT,
                    "%s: version %lld, this program reads %d; go on with the program that wrote "
                    "it, or start anew in another output folder",
                    path, (long long)version, VERSION);
    if (s == OK && !is_sealed(text, len))
        s = err_set(err, E_INPUT, "%s: is not as it was written: its checksum differs", path);
    free(text);
    free(path);
    if (s == OK && !json_get(json_get(root, "files"), "state.safetensors"))
        s = err_set(err, E_INPUT, "%s: the manifest names no state.safetensors", dir);
    if (s == OK)
        *out = root;
    else
        json_free(root);
    return s;
}

Status manifest_verify(const char *dir, int rank, int size, Err *err)
{
    Share share = {.rank = rank, .size = size};
    Json *root = NULL;
    Status s = manifest_read(&root, dir, err);
    const Json *files = s == OK ? json_get(root, "files") : NULL;
    for (void *it = json_first(files); it && s == OK; it = json_next(files, it))
        s = verify_file(dir, json_iter_key(it), json_iter_value(it), &share, err);
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
    if (!same_hash(m, "base_hash", manifest_base_hash(s)))
        config_problem(s->cfg, problems, "model.path",
                       "the base is not the one that %s was trained on; %s", dir, advice);
}

/* Of the values as they are kept, codes of a quantised matrix.  One in the host's memory may be on the device in the next start. */
static uint64_t sum_of(Device *d, const Param *p, Tensor *sum)
{
    uint64_t got = 0;
    size_t row_bytes = (size_t)tensor_cols(&p->t) * dtype_bytes(p->t.dtype);
    if (p->on_host) return checksum_rows(p->host, row_bytes, row_bytes, 0, tensor_rows(&p->t));
    d->k->checksum(d, sum, p->t.quant ? &p->t.quant->packed : &p->t);
    tensor_read(d, sum, &got);
    return got;
}

uint64_t manifest_base_hash(Session *s)
{
    uint64_t h = 0;
    const ParamSet *ps = &s->model.params;
    int64_t one = 1;
    Tensor sum = tensor_alloc(&s->dev, DT_I64, 1, &one, MEM_WORKSPACE);
    for (int i = 0; i < ps->n; i++) {
        Param *p = ps->items[i];
        if (p->trained) continue;
        param_open(p);
        uint64_t values = sum_of(&s->dev, p, &sum);
        param_close(p, false);
        h = hash64(p->name, strlen(p->name), h);
        h = hash64(&values, sizeof values, h);
    }
    tensor_clear(&sum);
    shards_end_pass(&s->shards);
    return h;
}
