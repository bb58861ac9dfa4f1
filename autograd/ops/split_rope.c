/* The fused q, k, v product split into heads, normed per head where the model does, and rotated. */
#include "autograd/ops.h"

enum { QKV, Q_NORM, K_NORM, RSTD_Q, RSTD_K };

typedef struct SplitArgs {
    const Tensor *positions, *rope;
    int n_heads, n_kv_heads;
    float eps;
} SplitArgs;

/* The gradient of an output, zeros when no consumer sent one. */
static const Tensor *grad_or_zeros(Ctx *c, Node *n, int out)
{
    Tensor *g = grad_of(n, out);
    if (g) return g;
    const Tensor *y = n->out[out];
    g = rule_scratch(c, y->dtype, tensor_rows(y), tensor_cols(y));
    tensor_zero(c->dev, g);
    return g;
}

static void split_rope_backward(Ctx *c, Node *n)
{
    const SplitArgs *args = n->args;
    float beta, q_beta, k_beta;
    Tensor *dqkv = grad_into(c, n->in[QKV], &beta);
    Tensor *dq_norm = grad_into(c, n->in[Q_NORM], &q_beta);
    Tensor *dk_norm = grad_into(c, n->in[K_NORM], &k_beta);
    const Tensor *qkv = n->saved[Q_NORM] ? tape_saved(c, n, QKV) : NULL;
    if (!dqkv) { /* only the norms are trained; the kernel computes both in one pass */
        dqkv = rule_scratch(c, qkv->dtype, tensor_rows(qkv), tensor_cols(qkv));
        beta = 0;
    }
    c->dev->k->split_rope_bwd(c->dev, dqkv, beta, dq_norm, q_beta, dk_norm, k_beta,
                              grad_or_zeros(c, n, 0), grad_or_zeros(c, n, 1),
                              grad_or_zeros(c, n, 2), qkv, n->saved[RSTD_Q], n->saved[RSTD_K],
                              args->positions, args->rope, n->saved[Q_NORM], n->saved[K_NORM],
                              args->n_heads, args->n_kv_heads);
}

static void split_rope_remake(Ctx *c, Node *n)
{
    const SplitArgs *args = n->args;
    const Tensor *qkv = tape_saved(c, n, QKV);
    c->dev->k->split_rope_fwd(c->dev, tape_output(c, n, 0), tape_output(c, n, 1),
                              tape_output(c, n, 2), n->saved[RSTD_Q], n->saved[RSTD_K], qkv,
                              args->positions, args->rope, n->saved[Q_NORM], n->saved[K_NORM],
                              args->n_heads, args->n_kv_heads, args->eps);
}

static const Op split_rope_op = {.name = "split_rope",
                                 .backward = split_rope_backward,
                                 .remake = split_rope_remake,
                                 .remade_from = RECOMPUTE_ATTENTION};

void op_split_rope(Ctx *c, Tensor *qkv, const Tensor *positions, const Tensor *rope, Tensor *q_norm,
                   Tensor *k_norm, int n_heads, int n_kv_heads, float eps, Tensor **q, Tensor **k,
                   Tensor **v)
{
    op_begin(c, &split_rope_op);
    int64_t rows = tensor_rows(qkv), dim = tensor_cols(rope);
    Tensor *out[3] = {tensor_new_matrix(c, rows, n_heads * dim),
                      tensor_new_matrix(c, rows, n_kv_heads * dim),
                      tensor_new_matrix(c, rows, n_kv_heads * dim)};
    Tensor *rstd_q = NULL, *rstd_k = NULL;
    if (q_norm) {
        rstd_q = tensor_new(c, DT_F32, 2, (int64_t[]){rows, n_heads});
        rstd_k = tensor_new(c, DT_F32, 2, (int64_t[]){rows, n_kv_heads});
    }
    c->dev->k->split_rope_fwd(c->dev, out[0], out[1], out[2], rstd_q, rstd_k, qkv, positions, rope,
                              q_norm, k_norm, n_heads, n_kv_heads, eps);
    *q = out[0], *k = out[1], *v = out[2];

    Node *n = tape_record(c, &split_rope_op, 3, out, 3, (Tensor *[]){qkv, q_norm, k_norm});
    if (n) {
        SplitArgs *args = arena_alloc(c->arena, sizeof *args);
        *args = (SplitArgs){positions, rope, n_heads, n_kv_heads, eps};
        n->args = args;
        if (q_norm) /* the rotation alone is turned back without it */
            tape_save(n, QKV, qkv);
        else
            tape_save_source(n, QKV, qkv);
        tape_save(n, Q_NORM, q_norm);
        tape_save(n, K_NORM, k_norm);
        tape_save(n, RSTD_Q, rstd_q);
        tape_save(n, RSTD_K, rstd_k);
    }
}
