#include "trainer/floor.h"

#include "tensor/region.h"

#include <math.h>

enum { HEAD = FLOOR_LAYER_PRODUCTS, HEAD_ROWS = 4096 };

static Tensor *buffer(Floor *f, DType dtype, int64_t rows, int64_t cols)
{
    ASSERT(f->n_buffers < FLOOR_MAX_BUFFERS, "%d buffers", f->n_buffers);
    Tensor *t = &f->buffers[f->n_buffers++];
    *t = tensor_shape(dtype, 2, (int64_t[]){rows, cols});
    return t;
}

/* Shapes first: whether they fit is known before anything is taken. */
static void shape_buffers(Floor *f)
{
    const LlamaConfig *c = f->cfg;
    DType t = f->dev->compute;
    int64_t C = c->hidden_size, F = c->intermediate_size, q = c->n_heads * c->head_dim;
    int64_t kv = c->n_kv_heads * c->head_dim, n = f->n;
    const int64_t in[] = {C, q, C, F, C}, out[] = {q + 2 * kv, C, 2 * F, C, c->vocab_size};
    for (int i = 0; i <= HEAD; i++) {
        int64_t rows = i == HEAD ? f->head_rows : n;
        f->w[i] = buffer(f, t, out[i], in[i]);
        f->x[i] = buffer(f, t, rows, in[i]);
        f->y[i] = buffer(f, t, rows, out[i]);
        f->dx[i] = buffer(f, t, rows, in[i]);
        if (f->full) f->dw[i] = buffer(f, t, out[i], in[i]);
    }
    f->q = buffer(f, t, n, q);
    f->k = buffer(f, t, n, kv);
    f->v = buffer(f, t, n, kv);
    f->o = buffer(f, t, n, q);
    f->lse = buffer(f, DT_F32, n, c->n_heads);
    f->dq = buffer(f, t, n, q);
    f->dk = buffer(f, t, n, kv);
    f->dv = buffer(f, t, n, kv);
}

/* Room for the buffers and for what attention takes as scratch. */
static bool fits(const Floor *f)
{
    size_t need = (size_t)64 << 20;
    for (int i = 0; i < f->n_buffers; i++)
        need += tensor_bytes(&f->buffers[i]) + REGION_ALIGN;
    size_t head = tensor_bytes(f->q);
    need += head * (f->dev->compute == DT_F32 ? 2 : 4) +
            (size_t)(f->dev->pool ? 128 * 4 * f->n * f->cfg->n_kv_heads : 0);
    return region_largest_free(f->dev->region) > need;
}

bool floor_open(Floor *f, Device *d, const LlamaConfig *cfg, bool full, const HostBatch *batch)
{
    *f = (Floor){.dev = d, .cfg = cfg, .full = full, .n = batch->n_tokens};
    f->head_rows = f->n < HEAD_ROWS ? f->n : HEAD_ROWS;
    shape_buffers(f);
    if (!fits(f)) return false;
    for (int i = 0; i < f->n_buffers; i++) {
        Tensor *t = &f->buffers[i];
        t->storage = storage_new(f->dev, tensor_bytes(t), MEM_WORKSPACE);
        /* random data: zeros would run up to 13 % faster */
        f->dev->k->fill_normal(f->dev, t, NULL, (uint64_t)i + 1, 0, 0.02);
    }
    int64_t n_cu = batch->n_docs + 1;
    f->cu = tensor_alloc(f->dev, DT_I32, 1, &n_cu, MEM_WORKSPACE);
    tensor_write(f->dev, &f->cu, batch->cu_docs);
    f->docs = (Docs){&f->cu, batch->cu_docs, batch->n_docs, batch->max_doc};
    return true;
}

void floor_close(Floor *f)
{
    for (int i = 0; i < f->n_buffers; i++)
        tensor_clear(&f->buffers[i]);
    tensor_clear(&f->cu);
}

static void products(Floor *f, int i, bool backward)
{
    const Kernels *k = f->dev->k;
    if (!backward) {
        k->matmul(f->dev, f->y[i], f->x[i], f->w[i], (MatmulArgs){.trans_b = true, .alpha = 1});
        return;
    }
    /* what is read stays as it was drawn: products of products would grow beyond all bounds */
    k->matmul(f->dev, f->dx[i], f->y[i], f->w[i], (MatmulArgs){.alpha = 1});
    if (f->full)
        k->matmul(f->dev, f->dw[i], f->y[i], f->x[i], (MatmulArgs){.trans_a = true, .alpha = 1});
}

static void head(Floor *f)
{
    for (int64_t row = 0; row < f->n; row += f->head_rows) {
        int64_t n = f->n - row < f->head_rows ? f->n - row : f->head_rows;
        Tensor *x = f->x[HEAD], *y = f->y[HEAD], *dx = f->dx[HEAD];
        Tensor xs = tensor_slice_rows(x, 0, n), ys = tensor_slice_rows(y, 0, n),
               dxs = tensor_slice_rows(dx, 0, n);
        f->x[HEAD] = &xs, f->y[HEAD] = &ys, f->dx[HEAD] = &dxs;
        products(f, HEAD, false);
        products(f, HEAD, true);
        f->x[HEAD] = x, f->y[HEAD] = y, f->dx[HEAD] = dx;
    }
}

void floor_run(Floor *f)
{
    const Kernels *k = f->dev->k;
    const LlamaConfig *c = f->cfg;
    int H = (int)c->n_heads, K = (int)c->n_kv_heads;
    float scale = (float)(1.0 / sqrt((double)c->head_dim));
    for (int64_t layer = 0; layer < c->n_layers; layer++) {
        products(f, 0, false);
        k->attention_fwd(f->dev, f->o, f->lse, f->q, f->k, f->v, H, K, &f->docs, scale);
        for (int i = 1; i < HEAD; i++)
            products(f, i, false);
    }
    head(f);
    for (int64_t layer = 0; layer < c->n_layers; layer++) {
        for (int i = HEAD - 1; i > 0; i--)
            products(f, i, true);
        /* d_o is o's buffer: any numbers do */
        k->attention_bwd(f->dev, f->dq, f->dk, f->dv, f->o, f->q, f->k, f->v, f->o, f->lse, H, K,
                         &f->docs, scale);
        products(f, 0, true);
    }
}
