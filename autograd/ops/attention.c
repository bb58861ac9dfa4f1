/* Causal attention inside each document of a packed batch. */
#include "autograd/ops.h"

#include <math.h>

enum { Q, K, V, O, LSE };

typedef struct AttentionArgs {
    const Docs *docs;
    int n_heads, n_kv_heads;
    float scale;
} AttentionArgs;

/* The kernel overwrites dq, dk, dv.  A buffer that holds a sum already, or that nobody wants, is replaced by
 * scratch, which is added afterwards. */
typedef struct Target {
    Tensor *into, *write;
} Target;

static Target target_of(Ctx *c, Node *n, int i)
{
    float beta;
    Target t = {.into = grad_into(c, n->in[i], &beta)};
    const Tensor *x = n->saved[i];
    bool direct = t.into && beta == 0 && tensor_is_dense(t.into);
    t.write = direct ? t.into : rule_scratch(c, x->dtype, tensor_rows(x), tensor_cols(x));
    if (t.into && !direct && beta == 0) tensor_zero(c->dev, t.into);
    return t;
}

static void attention_backward(Ctx *c, Node *n)
{
    const AttentionArgs *args = n->args;
    Target t[3] = {target_of(c, n, Q), target_of(c, n, K), target_of(c, n, V)};
    c->dev->k->attention_bwd(c->dev, t[Q].write, t[K].write, t[V].write, grad_of(n, 0),
                             tape_saved(c, n, Q), tape_saved(c, n, K), tape_saved(c, n, V),
                             tape_saved(c, n, O), tape_saved(c, n, LSE), args->n_heads,
                             args->n_kv_heads, args->docs, args->scale);
    for (int i = Q; i <= V; i++)
        if (t[i].into && t[i].into != t[i].write) c->dev->k->axpy(c->dev, t[i].into, 1, t[i].write);
}

static void attention_remake(Ctx *c, Node *n)
{
    const AttentionArgs *args = n->args;
    const Tensor *q = tape_saved(c, n, Q), *k = tape_saved(c, n, K), *v = tape_saved(c, n, V);
    c->dev->k->attention_fwd(c->dev, tape_output(c, n, 0), tape_output(c, n, 1), q, k, v,
                             args->n_heads, args->n_kv_heads, args->docs, args->scale);
}

static const Op attention_op = {.name = "attention",
                                .backward = attention_backward,
                                .remake = attention_remake,
                                .remade_from = RECOMPUTE_FULL};

Tensor *op_attention(Ctx *c, Tensor *q, Tensor *k, Tensor *v, int n_heads, int n_kv_heads,
                     const Docs *docs, int64_t pad)
{
    op_begin(c, &attention_op);
    float scale = (float)(1.0 / sqrt((double)tensor_cols(q) / n_heads));
    Tensor *o = tensor_new_padded(c, tensor_rows(q), tensor_cols(q), pad);
    Tensor *lse = tensor_new(c, DT_F32, 2, (int64_t[]){tensor_rows(q), n_heads});
    c->dev->k->attention_fwd(c->dev, o, lse, q, k, v, n_heads, n_kv_heads, docs, scale);

    Node *n = tape_record(c, &attention_op, 2, (Tensor *[]){o, lse}, 3, (Tensor *[]){q, k, v});
    if (n) {
        AttentionArgs *args = arena_alloc(c->arena, sizeof *args);
        *args = (AttentionArgs){docs, n_heads, n_kv_heads, scale};
        n->args = args;
        tape_save(n, Q, q);
        tape_save(n, K, k);
        tape_save(n, V, v);
        tape_save(n, O, o);
        tape_save(n, LSE, lse);
    }
    return o;
}
