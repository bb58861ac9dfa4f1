#include "tensor/upload.h"

#include "base/str.h"
#include "tensor/convert.h"

#include <stdlib.h>
#include <string.h>

enum { THREADS = 16, PIECES = 64 };          /* a device without threads of its own */
static const size_t PIECE = (size_t)1 << 20; /* bytes of the tensor */

/* Rows, or numbers of one row, that one thread converts. */
typedef struct Piece {
    const uint8_t *from;
    char *to;     /* on the host */
    int16_t *low; /* or NULL */
    int64_t rows, cols, pitch;
    DType from_dtype, to_dtype;
    bool clear_pad;
    void *device_to, *device_low; /* where they are copied then, or NULL */
} Piece;

struct Upload {
    Device *d;
    Pool *pool, *own_pool;
    char *buffers[2];  /* pinned; NULL: tensors are written directly */
    int64_t copied[2]; /* event: the device has read the buffer */
    int filling;
    size_t used; /* of that buffer */
    Piece pieces[PIECES];
    int n;
    size_t bytes; /* read, in all */
};

static const size_t BUFFER = (size_t)64 << 20;

Upload *upload_open(Device *d)
{
    Upload *u = xcalloc(1, sizeof *u);
    u->d = d;
    u->pool = d->pool ? d->pool : (u->own_pool = pool_new(THREADS));
    for (int i = 0; i < 2 && d->backend->host_alloc; i++)
        u->buffers[i] = d->backend->host_alloc(d, BUFFER);
    return u;
}

static void convert_row(const Piece *p, int64_t row)
{
    const uint8_t *from = p->from + (size_t)(row * p->cols) * dtype_bytes(p->from_dtype);
    char *to = p->to + (size_t)(row * p->pitch) * dtype_bytes(p->to_dtype);
    int16_t *low = p->low ? p->low + row * p->cols : NULL;
    enum { BLOCK = 1024 };
    float x[BLOCK];
    if (p->from_dtype == p->to_dtype) {
        memcpy(to, from, (size_t)p->cols * dtype_bytes(p->to_dtype));
        if (low) memset(low, 0, (size_t)p->cols * sizeof *low); /* a bf16 is its own nearest */
        return;
    }
    if (p->to_dtype == DT_F32) {
        convert_to_f32((float *)(void *)to, from, p->from_dtype, p->cols);
        return;
    }
    for (int64_t i = 0; i < p->cols; i += BLOCK) {
        int64_t n = p->cols - i < BLOCK ? p->cols - i : BLOCK;
        convert_to_f32(x, from + (size_t)i * dtype_bytes(p->from_dtype), p->from_dtype, n);
        if (low)
            convert_split((uint16_t *)(void *)to + i, low + i, x, n);
        else
            convert_from_f32(to + (size_t)i * dtype_bytes(p->to_dtype), p->to_dtype, x, n);
    }
}

static void convert_piece(void *ud, int64_t i)
{
    const Piece *p = &((Upload *)ud)->pieces[i];
    size_t e = dtype_bytes(p->to_dtype);
    for (int64_t row = 0; row < p->rows; row++) {
        convert_row(p, row);
        if (p->clear_pad)
            memset(p->to + (size_t)(row * p->pitch + p->cols) * e, 0,
                   (size_t)(p->pitch - p->cols) * e);
    }
}

static size_t to_bytes(const Piece *p)
{
    return (size_t)(p->rows * p->pitch) * dtype_bytes(p->to_dtype);
}

static size_t low_bytes(const Piece *p)
{
    return (size_t)(p->rows * p->cols) * sizeof(int16_t);
}

void upload_flush(Upload *u)
{
    if (u->n == 0) return;
    bool direct = !u->buffers[0];
    if (!direct) device_wait(u->d, u->copied[u->filling]);
    pool_run(u->pool, u->n, convert_piece, u);
    for (int i = 0; i < u->n && !direct; i++) {
        const Piece *p = &u->pieces[i];
        if (!p->device_to) continue;
        u->d->backend->copy(u->d, p->device_to, p->to, to_bytes(p), COPY_TO_DEVICE);
        if (p->low) u->d->backend->copy(u->d, p->device_low, p->low, low_bytes(p), COPY_TO_DEVICE);
    }
    if (!direct) {
        u->copied[u->filling] = device_record(u->d);
        u->filling ^= 1;
        u->used = 0;
    }
    u->n = 0;
}

/* The next bytes of the buffer, on a cache line. */
static char *take(Upload *u, size_t bytes)
{
    char *at = u->buffers[u->filling] + u->used;
    u->used += (bytes + 63) & ~(size_t)63;
    return at;
}

static void add_piece(Upload *u, Piece p, bool in_host_memory)
{
    if (in_host_memory) {
        p.to = p.device_to;
        p.low = p.device_low;
        p.device_to = p.device_low = NULL;
        if (u->n == PIECES) upload_flush(u);
        u->pieces[u->n++] = p;
        return;
    }
    size_t bytes = to_bytes(&p) + (p.device_low ? low_bytes(&p) : 0) + 128;
    ASSERT(bytes <= BUFFER, "a row of %lld numbers", (long long)p.pitch);
    if (u->n == PIECES || u->used + bytes > BUFFER) upload_flush(u);
    p.clear_pad = p.pitch > p.cols;
    p.to = take(u, to_bytes(&p));
    p.low = p.device_low ? (int16_t *)(void *)take(u, low_bytes(&p)) : NULL;
    u->pieces[u->n++] = p;
}

void upload_add(Upload *u, const Tensor *to, const Tensor *low, const void *from, DType dtype)
{
    ASSERT(!low || (to->dtype == DT_BF16 && low->dtype == DT_I16 && tensor_is_dense(to)),
           "upload: low beside %s", dtype_name(to->dtype));
    if (tensor_numel(to) == 0) return;
    u->bytes += (size_t)tensor_numel(to) * dtype_bytes(dtype);
    bool dense = tensor_is_dense(to);
    int64_t rows = dense ? 1 : tensor_rows(to), cols = dense ? tensor_numel(to) : tensor_cols(to);
    int64_t pitch = dense ? cols : to->ld, e = (int64_t)dtype_bytes(to->dtype);
    /* pieces of whole rows, or of one long row */
    int64_t some_rows = (int64_t)PIECE / (pitch * e) > 1 ? (int64_t)PIECE / (pitch * e) : 1;
    int64_t some_cols = dense ? (int64_t)PIECE / e : cols;
    for (int64_t row = 0; row < rows; row += some_rows)
        for (int64_t col = 0; col < cols; col += some_cols) {
            Piece p = {.rows = rows - row < some_rows ? rows - row : some_rows,
                       .cols = cols - col < some_cols ? cols - col : some_cols,
                       .from_dtype = dtype,
                       .to_dtype = to->dtype};
            p.pitch = dense ? p.cols : pitch;
            p.from = (const uint8_t *)from + (size_t)(row * cols + col) * dtype_bytes(dtype);
            p.device_to = (char *)tensor_data(to) + (row * pitch + col) * e;
            if (low) p.device_low = (int16_t *)tensor_data(low) + row * cols + col;
            add_piece(u, p, !u->buffers[0] || to->storage->dev != u->d);
        }
}

size_t upload_bytes(const Upload *u)
{
    return u->bytes;
}

void upload_close(Upload *u)
{
    upload_flush(u);
    u->d->backend->sync(u->d);
    for (int i = 0; i < 2 && u->buffers[i]; i++)
        u->d->backend->host_free(u->d, u->buffers[i]);
    pool_free(u->own_pool);
    free(u);
}
