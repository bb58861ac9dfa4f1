/* The head's product and the cross-entropy in one, in chunks of rows: the logits of a whole batch never exist.
 * With z = h w^T and d = grad_scale (softmax(z) - onehot(target)):  dh = d w,  dw = d^T h.
 *
 * Both are computed while a chunk's logits stand, in the forward pass.  A parameter's dw goes to its buffer at
 * once; any other w (and h) gets its gradient from a private tensor in backward. */
#include "autograd/ops.h"

enum { DH, DW };
enum { H, W };

/* Logits of a chunk, in elements: enough rows for the products to run well, little beside the model.  A GPU wants
 * thousands of rows (2,092 at a vocabulary of 128,256: half a GiB in bf16).  A bf16 gradient of w is best made in one
 * piece (16,743 rows there): several would be added up in an f32 buffer of w's size, which is more memory than the logits
 * of 2 C rows. */
enum { CHUNK_ROWS_MIN = 128 };
static const int64_t CHUNK_ELEMENTS_F32 = 1 << 25, CHUNK_ELEMENTS_BF16 = 1 << 28,
                     CHUNK_ELEMENTS_BF16_DW = (int64_t)1 << 31;

static int64_t default_chunk(const Device *d, const Tensor *dw, int64_t vocab)
{
    bool bf16_dw = dw && dw->dtype == DT_BF16;
    int64_t elements = d->compute != DT_BF16 ? CHUNK_ELEMENTS_F32
                       : bf16_dw             ? CHUNK_ELEMENTS_BF16_DW
                                             : CHUNK_ELEMENTS_BF16;
    return elements / vocab > CHUNK_ROWS_MIN ? elements / vocab : CHUNK_ROWS_MIN;
}

static void linear_xent_backward(Ctx *c, Node *n)
{
    grad_give(c, n, DH, n->in[H]);
    grad_give(c, n, DW, n->in[W]);
}

static const Op linear_xent_op = {.name = "linear_xent", .backward = linear_xent_backward};

/* Elements [from, from + n) of a vector. */
static Tensor vector_part(const Tensor *t, int64_t from, int64_t n)
{
    Tensor part = *t;
    part.n_dims = 1;
    part.shape[0] = part.ld = n;
    part.offset += (size_t)from * dtype_bytes(t->dtype);
    return part;
}

typedef struct Head {
    Tensor *h, *w, *losses, *dh, *dw;
    const Tensor *targets;
    float grad_scale, dw_beta;
} Head;

static void chunk_run(Ctx *c, Head *a, Tensor *logits, int64_t row0)
{
    const Kernels *k = c->dev->k;
    int64_t n = tensor_rows(logits);
    Tensor h = tensor_slice_rows(a->h, row0, n);
    Tensor losses = vector_part(a->losses, row0, n), targets = vector_part(a->targets, row0, n);
    k->matmul(c->dev, logits, &h, a->w, (MatmulArgs){.trans_b = true, .alpha = 1});
    k->softmax_xent(c->dev, &losses, logits, &targets, a->dh || a->dw ? a->grad_scale : 0);
    if (a->dh) {
        Tensor dh = tensor_slice_rows(a->dh, row0, n);
        k->matmul(c->dev, &dh, logits, a->w, (MatmulArgs){.alpha = 1});
    }
    if (a->dw) {
        k->matmul(c->dev, a->dw, logits, &h,
                  (MatmulArgs){.trans_a = true, .alpha = 1, .beta = a->dw_beta});
        a->dw_beta = 1;
    }
}

Tensor *op_linear_xent(Ctx *c, Tensor *h, Tensor *w, const Tensor *targets, float grad_scale,
                       Tensor *loss_sum, Tensor *row_loss, int64_t chunk_rows)
{
    op_begin(c, &linear_xent_op);
    int64_t rows = tensor_rows(h), vocab = tensor_rows(w), one = 1;
    ASSERT(!c->tape || grad_scale != 0 || !(h->needs_grad || w->needs_grad),
           "linear_xent: grad_scale %g", (double)grad_scale);
    Tensor *loss = tensor_new(c, DT_F32, 1, &one);
    Head a = {.h = h,
              .w = w,
              .targets = targets,
              .grad_scale = grad_scale,
              .losses = row_loss ? row_loss : tensor_new(c, DT_F32, 1, &rows)};
    if (c->tape && h->needs_grad) a.dh = tensor_like(c, h);
    if (c->tape && w->needs_grad)
        a.dw = w->is_param ? grad_into(c, w, &a.dw_beta) : tensor_like(c, w);
    if (rows == 0 && a.dw && a.dw_beta == 0) tensor_zero(c->dev, a.dw);
    if (chunk_rows == 0) chunk_rows = default_chunk(c->dev, a.dw, vocab);
    Tensor *dw = a.dw, *sum = NULL;
    if (dw && dw->dtype != DT_F32 && rows > chunk_rows) { /* rounded once, behind the last chunk */
        a.dw = sum = tensor_new(c, DT_F32, 2, w->shape);
        if (a.dw_beta != 0) c->dev->k->copy(c->dev, sum, dw);
    }

    for (int64_t row0 = 0; row0 < rows; row0 += chunk_rows) {
        int64_t n = rows - row0 < chunk_rows ? rows - row0 : chunk_rows;
        Tensor *logits = tensor_new_matrix(c, n, vocab);
        chunk_run(c, &a, logits, row0);
        scope_drop(c->scope, logits);
    }
    if (sum) {
        c->dev->k->copy(c->dev, dw, sum);
        scope_drop(c->scope, sum);
        a.dw = dw;
    }
    c->dev->k->sum(c->dev, loss, 0, a.losses);
    c->dev->k->axpy(c->dev, loss_sum, 1, loss);

    Node *n = tape_record(c, &linear_xent_op, 1, (Tensor *[]){loss}, 2, (Tensor *[]){h, w});
    if (n) {
        tape_save(n, DH, a.dh);
        if (!w->is_param) tape_save(n, DW, a.dw);
    }
    return loss;
}
