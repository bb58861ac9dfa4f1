#include "trainer/pissa.h"

#include "base/hash.h"
#include "base/str.h"
#include "kernels/svd.h"
#include "model/weights.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct Pissa {
    Session *s;
    Pool *pool;
    SafeTensors *file; /* of a base that is quantised in memory: its values before that; or NULL */
    uint64_t hash;     /* of all A and B */
} Pissa;

/* The matrix (rows, in) as it was, on the host. */
static float *read_matrix(const Pissa *p, const Lora *x)
{
    Param *w = &x->linear->w;
    if (p->file)
        return weight_read_f32(safetensors_find(p->file, w->slices[x->slice].name), p->pool);
    float *host = xmalloc((size_t)param_slice_numel(w, x->slice) * sizeof *host);
    param_read(&p->s->dev, w, x->slice, host);
    return host;
}

static Status init_adapter(Pissa *p, Lora *x, Err *err)
{
    Param *w = &x->linear->w;
    int64_t rows = x->linear->rows[x->slice], in = x->linear->in, r = x->rank;
    if (r > rows || r > in)
        return err_set(err, E_INPUT,
                       "%s is (%lld, %lld) and has no %lld singular vectors; lower "
                       "its rank, or set lora.init: kaiming",
                       x->module, (long long)rows, (long long)in, (long long)r);
    SvdOpts opts = {
        .rank = r,
        .iterations = (int)p->s->cfg->pissa_iterations,
        .key = rng_mix((uint64_t)p->s->cfg->seed, hash64(x->module, strlen(x->module), 0))};
    float *a = xmalloc((size_t)(r * in) * sizeof *a), *b = xmalloc((size_t)(rows * r) * sizeof *b),
          *s = xmalloc((size_t)r * sizeof *s);
    param_open(w);
    float *host = read_matrix(p, x);
    param_close(w, false);
    Status status = OK;
    if (!svd_principal(p->pool, b, s, a, host, rows, in, &opts))
        status = err_set(err, E_INPUT, "%s holds NaN or infinity", w->slices[x->slice].name);
    for (int64_t k = 0; k < r && status == OK; k++) {
        float root = sqrtf(s[k] / x->scale);
        for (int64_t i = 0; i < in; i++)
            a[k * in + i] *= root;
        for (int64_t i = 0; i < rows; i++)
            b[i * r + k] *= root;
    }
    if (status == OK) {
        lora_set_principal(x, &p->s->dev, a, b);
        svd_subtract(p->pool, host, b, a, rows, in, r, x->scale);
        param_open(w);
        param_write(&p->s->dev, w, x->slice, host);
        param_close(w, true);
        param_changed(w);
        p->hash = hash64(a, (size_t)(r * in) * sizeof *a, p->hash);
        p->hash = hash64(b, (size_t)(rows * r) * sizeof *b, p->hash);
    }
    free(a), free(b), free(s), free(host);
    return status;
}

static Status compare(const Pissa *p, Err *err)
{
    Comm *c = p->s->hosts;
    uint64_t *all = xmalloc((size_t)c->size * sizeof *all);
    comm_exchange(c, all, &p->hash, sizeof p->hash);
    Status status = OK;
    for (int i = 1; i < c->size && status == OK; i++)
        if (all[i] != all[0])
            status = err_set(err, E_FAILED,
                             "lora.init: pissa came out otherwise on rank %d than on "
                             "rank 0: their processors differ",
                             i);
    free(all);
    return status;
}

Status pissa_init(Session *s, Err *err)
{
    Pissa p = {.s = s, .pool = s->dev.pool};
    Pool *own = p.pool ? NULL : pool_new((int)s->cfg->threads);
    if (own) p.pool = own;
    Status status = OK;
    if (s->model.blocks[0].qkv.w.t.quant)
        status = comm_agree(s->hosts, safetensors_open(&p.file, s->cfg->model_path, err), err);
    for (int i = 0; i < s->lora.n && status == OK; i++)
        status = init_adapter(&p, s->lora.items[i], err);
    if (status == OK) status = compare(&p, err);
    safetensors_close(p.file);
    pool_free(own);
    return status;
}
