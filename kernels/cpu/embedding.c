/* Rows of the embedding by token id, and their gradients summed by id. */
#include "kernels/cpu/cpu.h"

#include <string.h>

typedef struct Embedding {
    float *y, *dw;
    const float *w, *dy;
    const int32_t *ids;
    int64_t n, vocab, cols;
    float beta;
} Embedding;

static int32_t checked_id(const Embedding *a, int64_t i)
{
    ASSERT(a->ids[i] >= 0 && a->ids[i] < a->vocab,
           "embedding: id %d of token %lld, vocabulary %lld", a->ids[i], (long long)i,
           (long long)a->vocab);
    return a->ids[i];
}

static void fwd_rows(void *args, int64_t row0, int64_t row1)
{
    const Embedding *a = args;
    for (int64_t r = row0; r < row1; r++)
        memcpy(a->y + r * a->cols, a->w + checked_id(a, r) * a->cols,
               (size_t)a->cols * sizeof(float));
}

void cpu_embedding_fwd(Device *d, Tensor *y, const Tensor *w, const Tensor *ids)
{
    Embedding a = {.y = dense_f32(y),
                   .w = dense_f32(w),
                   .ids = data_i32(ids),
                   .n = tensor_numel(ids),
                   .vocab = tensor_rows(w),
                   .cols = tensor_cols(w)};
    check_matrix(y, a.n, a.cols, "embedding: y");
    rows_run(d, a.n, a.cols, fwd_rows, &a);
}

/* Each part owns a range of the vocabulary and reads all ids, so that two tokens of one id are summed in
 * their order. */
static void bwd_rows(void *args, int64_t row0, int64_t row1)
{
    const Embedding *a = args;
    float *dw = a->dw + row0 * a->cols;
    int64_t n = (row1 - row0) * a->cols;
    if (a->beta == 0)
        memset(dw, 0, (size_t)n * sizeof(float));
    else if (a->beta != 1)
        for (int64_t i = 0; i < n; i++)
            dw[i] *= a->beta;
    for (int64_t r = 0; r < a->n; r++) {
        int64_t id = checked_id(a, r);
        if (id < row0 || id >= row1) continue;
        float *to = a->dw + id * a->cols;
        const float *from = a->dy + r * a->cols;
        for (int64_t i = 0; i < a->cols; i++)
            to[i] += from[i];
    }
}

enum { VOCAB_PARTS = 16 };

static void bwd_part(void *ud, int64_t i)
{
    const Embedding *a = ud;
    bwd_rows(ud, a->vocab * i / VOCAB_PARTS, a->vocab * (i + 1) / VOCAB_PARTS);
}

void cpu_embedding_bwd(Device *d, Tensor *dw, float beta, const Tensor *dy, const Tensor *ids)
{
    Embedding a = {.dw = dense_f32(dw),
                   .dy = dense_f32(dy),
                   .ids = data_i32(ids),
                   .n = tensor_numel(ids),
                   .vocab = tensor_rows(dw),
                   .cols = tensor_cols(dw),
                   .beta = beta};
    check_matrix(dy, a.n, a.cols, "embedding: dy");
    pool_run(d->pool, VOCAB_PARTS, bwd_part, &a);
}
