#include "trainer/save_files.h"

#include "base/fs.h"
#include "base/hash.h"
#include "base/str.h"
#include "trainer/manifest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- where everything lies -------------------------------------------------------------------- */

static SavePlace place_of(const SafeTensor *t, int file, uint64_t at)
{
    SavePlace p = {.file = file, .at = at};
    bool known = safe_dtype_to_tensor(t->dtype, &p.dtype);
    ASSERT(known, "%s cannot be written", t->name);
    return p;
}

static void place_state(SaveFiles *f)
{
    const StateTensors *l = &f->tensors;
    for (int k = 0; k < l->n_slices; k++)
        for (int i = l->first[k]; i < l->first[k + 1]; i++)
            f->places[k][i - l->first[k]] =
                place_of(&l->items[i], f->weights.n_files, f->state.offsets[i]);
}

static void place_weights(SaveFiles *f, const WeightList *list)
{
    for (int i = 0; i < list->n; i++) {
        const WeightRef *r = &list->refs[i];
        f->places[state_tensors_slice(&f->tensors, r->param, r->slice)][SAVE_AS_WEIGHTS] =
            place_of(&list->items[i], f->weights.file_of[i], f->weights.offsets[i]);
    }
}

static void add_files(SaveFiles *f, const SafeLayout *l)
{
    for (int i = 0; i < l->n_files; i++) {
        f->items[f->n++] = (SaveFile){.file = &l->files[i], .first_sum = f->n_sums, .fd = -1};
        f->n_sums += manifest_ranges(l->files[i].bytes);
    }
}

Status save_files_init(SaveFiles *f, const Session *s, Err *err)
{
    WeightList list = {0};
    *f = (SaveFiles){0};
    state_tensors_list(&f->tensors, &s->shards);
    session_list_weights(s, &list);
    Status status =
        safetensors_layout(&f->state, state_file_name, f->tensors.items, f->tensors.n, NULL, err);
    if (status == OK) status = session_lay_out_weights(s, &list, &f->weights, err);
    if (status == OK) {
        f->items = xcalloc((size_t)f->weights.n_files + 1, sizeof *f->items);
        f->places = xcalloc((size_t)f->tensors.n_slices, sizeof *f->places);
        add_files(f, &f->weights);
        add_files(f, &f->state);
        f->sums = xcalloc(f->n_sums, sizeof *f->sums);
        place_state(f);
        place_weights(f, &list);
    }
    weight_list_clear(&list);
    return status;
}

void save_files_clear(SaveFiles *f)
{
    safetensors_layout_clear(&f->state);
    safetensors_layout_clear(&f->weights);
    state_tensors_clear(&f->tensors);
    free(f->items);
    free(f->places);
    free(f->sums);
    *f = (SaveFiles){0};
}

/* ---- writing ---------------------------------------------------------------------------------- */

void save_files_begin(SaveFiles *f, const char *dir, SaveParts parts)
{
    f->n_open = parts == SAVE_ALL ? f->n : f->weights.n_files;
    for (int i = 0; i < f->n_open; i++)
        f->items[i].path = path_join(dir, f->items[i].file->name);
    for (size_t i = 0; i < f->n_sums; i++)
        f->sums[i] = 0;
    f->n_written = 0;
}

static Status write_bytes(SaveFiles *f, const SaveFile *file, uint64_t at, const void *data,
                          size_t n, Err *err)
{
    TRY(file_write_at(file->fd, data, n, at, file->path, err));
    f->n_written += n;
    for (const char *from = data; n > 0;) {
        uint64_t range = at / MANIFEST_RANGE, end = (range + 1) * MANIFEST_RANGE;
        if (end > file->file->bytes) end = file->file->bytes;
        size_t here = end - at < n ? (size_t)(end - at) : n;
        f->sums[file->first_sum + range] ^= crc32c_shift(crc32c(0, from, here), end - at - here);
        from += here;
        at += here;
        n -= here;
    }
    return OK;
}

static Status close_file(SaveFile *file, bool sync, Err *err)
{
    int failed = sync && fsync(file->fd) != 0 ? errno : 0;
    if (close(file->fd) != 0 && !failed) failed = errno;
    file->fd = -1;
    return failed ? err_set(err, E_FAILED, "%s: cannot write: %s", file->path, strerror(failed))
                  : OK;
}

static Status create_file(SaveFiles *f, SaveFile *file, Err *err)
{
    const StrBuf *header = &file->file->header;
    TRY(file_create_sized(&file->fd, file->path, file->file->bytes, err));
    Status s = write_bytes(f, file, 0, header->data, header->len, err);
    Err more = {0};
    Status closed = close_file(file, false, &more);
    if (s == OK && closed != OK) s = err_set(err, closed, "%s", more.line);
    return s;
}

Status save_files_create(SaveFiles *f, Err *err)
{
    for (int i = 0; i < f->n_open; i++)
        TRY(create_file(f, &f->items[i], err));
    return OK;
}

Status save_files_open(SaveFiles *f, Err *err)
{
    for (int i = 0; i < f->n_open; i++) {
        SaveFile *file = &f->items[i];
        file->fd = open(file->path, O_WRONLY | O_CLOEXEC);
        if (file->fd < 0)
            return err_set(err, E_FAILED, "%s: cannot open for writing: %s", file->path,
                           strerror(errno));
    }
    return OK;
}

Status save_files_write(SaveFiles *f, const SavePlace *p, int64_t first, int64_t n,
                        const void *data, Err *err)
{
    size_t e = dtype_bytes(p->dtype);
    return write_bytes(f, &f->items[p->file], p->at + (uint64_t)first * e, data, (size_t)n * e,
                       err);
}

Status save_files_close(SaveFiles *f, Err *err)
{
    Status s = OK;
    for (int i = 0; i < f->n_open; i++) {
        SaveFile *file = &f->items[i];
        Err more = {0};
        Status closed = file->fd < 0 ? OK : close_file(file, true, &more);
        if (s == OK && closed != OK) s = err_set(err, closed, "%s", more.line);
        free(file->path);
        file->path = NULL;
    }
    return s;
}

uint64_t save_files_bytes(const SaveFiles *f)
{
    uint64_t n = 0;
    for (int i = 0; i < f->n_open; i++)
        n += f->items[i].file->bytes;
    return n;
}
