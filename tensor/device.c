/* Storages in a device's region, counted by category; copies between host and device. */
#include "tensor/device.h"

#include "base/str.h"
#include "tensor/convert.h"
#include "tensor/region.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__SANITIZE_ADDRESS__)
#    define HAVE_ASAN 1
#elif defined(__has_feature)
#    if __has_feature(address_sanitizer)
#        define HAVE_ASAN 1
#    endif
#endif
#ifdef HAVE_ASAN
#    include <sanitizer/asan_interface.h>
#endif

/* Memory that nobody owns is poison under ASan; only a host backend's region has addresses to poison. */
static void poison(const Device *d, void *p, size_t n, bool on)
{
#ifdef HAVE_ASAN
    if (strcmp(d->backend->name, "cpu") != 0) return;
    if (on)
        ASAN_POISON_MEMORY_REGION(p, n);
    else
        ASAN_UNPOISON_MEMORY_REGION(p, n);
#else
    (void)d, (void)p, (void)n, (void)on;
#endif
}

Status device_open(Device *d, const Backend *b, const DeviceOpts *opts, DType compute, Err *err)
{
    *d = (Device){.backend = b, .k = b->kernels, .compute = compute};
    Status s = b->open(d, opts, err);
    if (s != OK) {
        *d = (Device){0}; /* nothing to close */
        return s;
    }
    d->region = region_new(d->region_bytes);
    poison(d, d->region_data, d->region_bytes, true);
    return OK;
}

void device_close(Device *d)
{
    if (!d->backend) return;
    ASSERT(d->mem.live_total == 0, "%zu bytes of device memory still have owners at close",
           d->mem.live_total);
    poison(d, d->region_data, d->region_bytes, false);
    for (Storage *s = d->free_storages, *next; s; s = next) {
        next = s->next_free;
        free(s);
    }
    region_free(d->region);
    d->backend->close(d);
    *d = (Device){0};
}

static void count(Device *d, MemCategory c, size_t bytes, bool add)
{
    MemStats *m = &d->mem;
    if (!add) {
        m->live[c] -= bytes;
        m->live_total -= bytes;
        return;
    }
    m->live[c] += bytes;
    m->live_total += bytes;
    m->n_allocs++;
    if (m->live[c] > m->peak[c]) m->peak[c] = m->live[c];
    if (m->live_total > m->peak_total) {
        m->peak_total = m->live_total;
        memcpy(m->at_peak, m->live, sizeof m->live);
    }
}

Storage *storage_new(Device *d, size_t bytes, MemCategory category)
{
    bool brief = category & MEM_BRIEF;
    category = (MemCategory)(category & ~MEM_BRIEF);
    brief |= category == MEM_WORKSPACE || category == MEM_COMM;
    RegionBlock *block = region_take(d->region, bytes, brief ? REGION_HIGH : REGION_LOW);
    if (!block) {
        char table[1024];
        give_up("out of memory on %s: %zu bytes for %s do not fit (largest free block %zu of %zu)\n"
                "%stry %s",
                d->backend->name, bytes, mem_category_name(category),
                region_largest_free(d->region), d->region_bytes,
                device_memory_table(d, table, sizeof table),
                d->when_full[0] ? d->when_full : "a machine with more memory");
    }
    Storage *s = d->free_storages;
    if (s)
        d->free_storages = s->next_free;
    else
        s = xmalloc(sizeof *s);
    *s = (Storage){.data = (char *)d->region_data + region_offset(block),
                   .bytes = bytes,
                   .refs = 1,
                   .dev = d,
                   .category = category,
                   .block = block};
    poison(d, s->data, bytes, false);
    if (d->backend->track) d->backend->track(d, s->data, bytes, true);
    count(d, category, region_block_bytes(block), true);
    return s;
}

void storage_ref(Storage *s)
{
    ASSERT(s->refs > 0, "storage is free");
    s->refs++;
}

void storage_unref(Storage *s)
{
    if (!s) return;
    ASSERT(s->refs > 0, "storage freed twice");
    if (--s->refs > 0) return;
    Device *d = s->dev;
    size_t rounded = region_block_bytes(s->block);
    poison(d, s->data, rounded, true);
    if (d->backend->track) d->backend->track(d, s->data, s->bytes, false);
    count(d, s->category, rounded, false);
    region_give(d->region, s->block);
    s->data = NULL;
    s->next_free = d->free_storages;
    d->free_storages = s;
}

void *workspace_take(Device *d, size_t bytes)
{
    ASSERT(!d->workspace, "the running kernel has its scratch already");
    d->workspace = storage_new(d, bytes, MEM_WORKSPACE);
    return d->workspace->data;
}

void workspace_give(Device *d)
{
    storage_unref(d->workspace);
    d->workspace = NULL;
}

/* Rows go one by one where the tensor has a pitch, in one piece where it is dense. */
static void copy_rows(Device *d, const Tensor *t, char *host, CopyKind kind)
{
    size_t e = dtype_bytes(t->dtype), row = (size_t)tensor_cols(t) * e;
    int64_t rows = tensor_rows(t);
    char *data = tensor_data(t);
    bool dense = tensor_is_dense(t);
    size_t n_pieces = dense ? 1 : (size_t)rows, piece = dense ? row * (size_t)rows : row;
    for (size_t i = 0; i < n_pieces; i++) {
        char *there = data + i * (size_t)t->ld * e, *here = host + i * row;
        if (kind == COPY_TO_DEVICE)
            d->backend->copy(d, there, here, piece, kind);
        else
            d->backend->copy(d, here, there, piece, kind);
    }
    d->backend->sync(d);
}

void tensor_write(Device *d, Tensor *t, const void *host)
{
    copy_rows(d, t, (char *)(uintptr_t)host, COPY_TO_DEVICE);
}

void tensor_read(Device *d, const Tensor *t, void *host)
{
    copy_rows(d, t, host, COPY_FROM_DEVICE);
}

void tensor_write_f32(Device *d, Tensor *t, const float *host)
{
    if (t->dtype == DT_F32) {
        tensor_write(d, t, host);
        return;
    }
    int64_t n = tensor_numel(t);
    void *tmp = xmalloc((size_t)n * dtype_bytes(t->dtype));
    convert_from_f32(tmp, t->dtype, host, n);
    tensor_write(d, t, tmp);
    free(tmp);
}

void tensor_read_f32(Device *d, const Tensor *t, float *host)
{
    if (t->dtype == DT_F32) {
        tensor_read(d, t, host);
        return;
    }
    int64_t n = tensor_numel(t);
    void *tmp = xmalloc((size_t)n * dtype_bytes(t->dtype));
    tensor_read(d, t, tmp);
    convert_to_f32(host, tmp, t->dtype, n);
    free(tmp);
}

void tensor_zero(Device *d, Tensor *t)
{
    if (tensor_numel(t) == 0) return;
    /* the last row's pad may lie behind a view's end */
    size_t bytes = tensor_bytes(t) - (size_t)(t->ld - tensor_cols(t)) * dtype_bytes(t->dtype);
    d->backend->zero(d, tensor_data(t), bytes);
}

Tensor tensor_alloc(Device *d, DType dtype, int n_dims, const int64_t *shape, MemCategory category)
{
    Tensor t = tensor_shape(dtype, n_dims, shape);
    t.storage = storage_new(d, tensor_bytes(&t), category);
    return t;
}

void tensor_clear(Tensor *t)
{
    storage_unref(t->storage);
    *t = (Tensor){0};
}

void device_use_stream(Device *d, StreamId s)
{
    if (d->backend->use_stream) d->backend->use_stream(d, s);
}

int64_t device_record(Device *d)
{
    int64_t event = ++d->n_events;
    if (d->backend->record) d->backend->record(d, (int)(event % DEVICE_EVENTS));
    return event;
}

void device_await(Device *d, const Device *of, int64_t event)
{
    if (event > 0 && d->backend->await) d->backend->await(d, of, (int)(event % DEVICE_EVENTS));
}

bool device_happened(const Device *d, int64_t event)
{
    return !d->backend->happened || d->backend->happened(d, (int)(event % DEVICE_EVENTS));
}

void device_wait(const Device *d, int64_t event)
{
    if (event > 0 && d->backend->wait) d->backend->wait(d, (int)(event % DEVICE_EVENTS));
}

void device_when_full(Device *d, const char *settings)
{
    snprintf(d->when_full, sizeof d->when_full, "%s", settings);
}

void device_reset_peak(Device *d)
{
    MemStats *m = &d->mem;
    memcpy(m->peak, m->live, sizeof m->peak);
    memcpy(m->at_peak, m->live, sizeof m->at_peak);
    m->peak_total = m->live_total;
}

const char *device_memory_table(const Device *d, char *buf, size_t n)
{
    int len = snprintf(buf, n, "  %-14s %12s %12s\n", "memory, MiB", "now", "at the peak");
    const double mib = 1024.0 * 1024.0;
    for (int c = 0; c <= MEM_N && len > 0 && (size_t)len < n; c++) {
        bool total = c == MEM_N;
        double now = (double)(total ? d->mem.live_total : d->mem.live[c]);
        double peak = (double)(total ? d->mem.peak_total : d->mem.at_peak[c]);
        len += snprintf(buf + len, n - (size_t)len, "  %-14s %12.1f %12.1f\n",
                        total ? "total" : mem_category_name((MemCategory)c), now / mib, peak / mib);
    }
    return buf;
}
