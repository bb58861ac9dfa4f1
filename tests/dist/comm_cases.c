/* Values are small integers over a power of two, so that every sum is exact in bf16 and any order gives it. */
#include "tests/dist/comm_cases.h"

#include "base/str.h"
#include "kernels/kernels.h"
#include "tensor/convert.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static float value(int rank, int64_t i)
{
    return (float)((rank + 1) * (int)(i % 7)) - 8;
}

static float sum_of(int size, int64_t i)
{
    float sum = 0;
    for (int r = 0; r < size; r++)
        sum += value(r, i);
    return sum;
}

static Tensor vector(Device *d, DType dtype, int64_t n)
{
    Tensor t = tensor_alloc(d, dtype, 1, &n, MEM_COMM);
    tensor_zero(d, &t);
    return t;
}

/* Fills t with this rank's values of elements first, first + 1, ... */
static void fill(Device *d, Tensor *t, int rank, int64_t first)
{
    int64_t n = tensor_numel(t);
    float *host = xmalloc((size_t)n * sizeof *host + 1);
    for (int64_t i = 0; i < n; i++)
        host[i] = value(rank, first + i);
    tensor_write_f32(d, t, host);
    free(host);
}

typedef float Want(int size, int64_t i);

static int differs(const Comm *c, Device *d, const char *name, const Tensor *t, int64_t first,
                   Want *want)
{
    int64_t n = tensor_numel(t), bad = 0;
    float *host = xmalloc((size_t)n * sizeof *host + 1);
    tensor_read_f32(d, t, host);
    for (int64_t i = 0; i < n; i++)
        bad += host[i] != want(c->size, first + i);
    if (bad)
        fprintf(stderr, "%s, rank %d of %d: %s %s: %lld of %lld values are wrong\n", c->ops->name,
                c->rank, c->size, name, dtype_name(t->dtype), (long long)bad, (long long)n);
    free(host);
    return bad > 0;
}

static float of_rank_of(int size, int64_t i, int64_t part)
{
    (void)size;
    return value((int)(i / part), i);
}

enum { PART = 384, ODD = 1001 };

static float gathered(int size, int64_t i)
{
    return of_rank_of(size, i, PART);
}

static float from_last(int size, int64_t i)
{
    return value(size - 1, i);
}

static Tensor piece(const Tensor *t, int64_t first, int64_t n)
{
    Tensor p = *t;
    p.shape[0] = p.ld = n;
    p.offset += (size_t)first * dtype_bytes(t->dtype);
    return p;
}

static int gather(Comm *c, Device *d, DType dtype, bool in_place)
{
    Tensor whole = vector(d, dtype, PART * c->size), own = vector(d, dtype, PART);
    Tensor part = in_place ? piece(&whole, c->rank * PART, PART) : own;
    fill(d, &part, c->rank, c->rank * PART);
    comm_wait(c, d, comm_all_gather(c, d, &whole, &part));
    int bad = differs(c, d, in_place ? "gather in place" : "gather", &whole, 0, gathered);
    tensor_clear(&whole);
    tensor_clear(&own);
    return bad;
}

static int scatter(Comm *c, Device *d, DType dtype, bool in_place)
{
    Tensor whole = vector(d, dtype, PART * c->size), own = vector(d, dtype, PART);
    Tensor part = in_place ? piece(&whole, c->rank * PART, PART) : own;
    fill(d, &whole, c->rank, 0);
    comm_wait(c, d, comm_reduce_scatter(c, d, &part, &whole));
    int bad = differs(c, d, in_place ? "reduce-scatter in place" : "reduce-scatter", &part,
                      c->rank * PART, sum_of);
    tensor_clear(&whole);
    tensor_clear(&own);
    return bad;
}

/* As `scatter`, in f32 whatever travels, and added to what is there. */
static int reduce_exactly(Comm *c, Device *d, DType dtype, DType sum, bool again)
{
    Tensor whole = vector(d, dtype, PART * c->size), pieces = vector(d, dtype, PART * c->size);
    Tensor part = vector(d, sum, PART);
    fill(d, &whole, c->rank, 0);
    if (again) fill(d, &part, 0, 0); /* read where beta is not 0 alone */
    comm_wait(c, d, comm_reduce_exactly(c, d, &part, 0, &whole, &pieces));
    if (again) {
        comm_wait(c, d, comm_reduce_exactly(c, d, &part, 1, &whole, &pieces));
        d->k->axpy(d, &part, -0.5f, &part); /* half of twice the sum */
    }
    int bad =
        differs(c, d, again ? "exact sum, added" : "exact sum", &part, c->rank * PART, sum_of);
    tensor_clear(&whole);
    tensor_clear(&pieces);
    tensor_clear(&part);
    return bad;
}

/* What travels has 8 bits of a mantissa, and the sum keeps what they have together: 256 and the ranks' ones. */
static int sum_is_exact(Comm *c, Device *d)
{
    Tensor whole = vector(d, d->compute, c->size), pieces = vector(d, d->compute, c->size);
    Tensor part = vector(d, DT_F32, 1);
    float *host = xmalloc((size_t)c->size * sizeof *host), got, want = (float)(256 + c->size - 1);
    for (int i = 0; i < c->size; i++)
        host[i] = c->rank == 0 ? 256 : 1;
    tensor_write_f32(d, &whole, host);
    comm_wait(c, d, comm_reduce_exactly(c, d, &part, 0, &whole, &pieces));
    tensor_read_f32(d, &part, &got);
    if (got != want)
        fprintf(stderr, "%s, rank %d of %d: an exact sum is %g, not %g\n", c->ops->name, c->rank,
                c->size, (double)got, (double)want);
    free(host);
    tensor_clear(&whole);
    tensor_clear(&pieces);
    tensor_clear(&part);
    return got != want;
}

/* Nothing is sent: the others have what this rank has. */
static int mute(Comm *c, Device *d)
{
    Tensor whole = vector(d, DT_F32, PART * c->size), part = vector(d, DT_F32, PART);
    Tensor pieces = vector(d, DT_F32, PART * c->size);
    float *want = xmalloc(tensor_bytes(&part)), *got = xmalloc(tensor_bytes(&whole));
    int bad = 0;
    c->mute = true;
    fill(d, &part, c->rank, c->rank * PART);
    tensor_read(d, &part, want);
    comm_wait(c, d, comm_all_gather(c, d, &whole, &part));
    tensor_read(d, &whole, got);
    for (int i = 0; i < c->size; i++)
        bad += memcmp(got + (size_t)i * PART, want, tensor_bytes(&part)) != 0;
    comm_wait(c, d, comm_reduce_exactly(c, d, &part, 0, &whole, &pieces));
    tensor_read(d, &part, got);
    for (int i = 0; i < PART; i++)
        bad += got[i] != (float)c->size * want[i];
    comm_wait(c, d, comm_reduce_scatter(c, d, &part, &whole));
    tensor_read(d, &part, got);
    bad += memcmp(got, want, tensor_bytes(&part)) != 0;
    comm_wait(c, d, comm_all_reduce(c, d, &part));
    tensor_read(d, &part, got);
    bad += memcmp(got, want, tensor_bytes(&part)) != 0;
    c->mute = false;
    if (bad) fprintf(stderr, "%s, rank %d: a mute collective is wrong\n", c->ops->name, c->rank);
    free(want);
    free(got);
    tensor_clear(&whole);
    tensor_clear(&part);
    tensor_clear(&pieces);
    return bad > 0;
}

static int reduce(Comm *c, Device *d, DType dtype, int64_t n)
{
    Tensor t = vector(d, dtype, n);
    fill(d, &t, c->rank, 0);
    comm_wait(c, d, comm_all_reduce(c, d, &t));
    int bad = differs(c, d, n < 4 ? "all-reduce of few" : "all-reduce", &t, 0, sum_of);
    tensor_clear(&t);
    return bad;
}

static int broadcast(Comm *c, Device *d, DType dtype)
{
    Tensor t = vector(d, dtype, ODD);
    fill(d, &t, c->rank, 0);
    comm_wait(c, d, comm_broadcast(c, d, &t, c->size - 1));
    int bad = differs(c, d, "broadcast", &t, 0, from_last);
    tensor_clear(&t);
    return bad;
}

/* Order between the streams: many collectives are under way at once, their inputs are written right before and their
 * buffers are used again right after, and only comm_wait keeps these apart. */
static int under_way(Comm *c, Device *d)
{
    enum { N = 8, ROUNDS = 20, LARGE = PART * 512 };
    Tensor whole[N], part[N];
    int64_t calls[N] = {0};
    int bad = 0;
    for (int k = 0; k < N; k++) {
        whole[k] = vector(d, DT_F32, (int64_t)LARGE * c->size);
        part[k] = vector(d, DT_F32, LARGE);
        fill(d, &part[k], c->rank, c->rank * LARGE);
    }
    for (int round = 0; round < ROUNDS; round++) {
        for (int k = 0; k < N; k++) {
            /* doubled and halved in place, on the compute stream */
            d->k->axpy(d, &part[k], 1, &part[k]);
            d->k->axpy(d, &part[k], -0.5f, &part[k]);
            calls[k] = comm_all_gather(c, d, &whole[k], &part[k]);
        }
        for (int k = 0; k < N; k++) {
            comm_wait(c, d, calls[k]);
            Tensor mine = piece(&whole[k], c->rank * LARGE, LARGE);
            d->backend->copy(d, tensor_data(&part[k]), tensor_data(&mine), tensor_bytes(&mine),
                             COPY_ON_DEVICE);
            tensor_zero(d, &mine);
        }
    }
    for (int k = 0; k < N; k++) {
        comm_wait(c, d, comm_all_gather(c, d, &whole[k], &part[k]));
        for (int r = 0; r < c->size; r++) {
            Tensor from = piece(&whole[k], r * LARGE, LARGE);
            Tensor want = vector(d, DT_F32, LARGE);
            fill(d, &want, r, r * LARGE);
            float *a = xmalloc(tensor_bytes(&want)), *b = xmalloc(tensor_bytes(&want));
            tensor_read(d, &from, a);
            tensor_read(d, &want, b);
            bad += memcmp(a, b, tensor_bytes(&want)) != 0;
            free(a);
            free(b);
            tensor_clear(&want);
        }
        tensor_clear(&whole[k]);
        tensor_clear(&part[k]);
    }
    if (bad)
        fprintf(stderr, "%s, rank %d of %d: %d gathers under way at once are wrong\n", c->ops->name,
                c->rank, c->size, bad);
    return bad;
}

static int exchange(Comm *c)
{
    typedef struct Word {
        int rank;
        char text[20];
    } Word;
    Word mine = {.rank = c->rank}, *all = xcalloc((size_t)c->size, sizeof *all);
    snprintf(mine.text, sizeof mine.text, "rank %d", c->rank);
    int bad = 0;
    comm_exchange(c, all, &mine, sizeof mine);
    for (int i = 0; i < c->size; i++) {
        char want[20];
        snprintf(want, sizeof want, "rank %d", i);
        bad += all[i].rank != i || !str_eq(all[i].text, want);
    }
    comm_barrier(c);
    free(all);
    if (bad) fprintf(stderr, "%s, rank %d: exchange is wrong\n", c->ops->name, c->rank);
    return bad > 0;
}

/* One rank's failure becomes everybody's, with its name. */
static int agreement(Comm *c)
{
    Err err = {0};
    int bad = comm_agree(c, OK, &err) != OK || err.line[0];
    Status s = c->rank == c->size - 1 ? err_set(&err, E_INPUT, "no file x") : OK;
    s = comm_agree(c, s, &err);
    char want[40];
    snprintf(want, sizeof want, "rank %d of %d on ", c->size - 1, c->size);
    bad += s != E_INPUT || !str_ends(err.line, "no file x");
    bad += c->size > 1 && !str_starts(err.line, want);
    s = comm_agree(c, err_set(&err, E_FAILED, "the same everywhere"), &err);
    bad += s != E_FAILED || !str_eq(err.line, "the same everywhere");
    if (bad) fprintf(stderr, "%s, rank %d: agreed on '%s'\n", c->ops->name, c->rank, err.line);
    return bad > 0;
}

int comm_cases(Comm *c, Device *d)
{
    int bad = exchange(c) + agreement(c);
    for (int i = 0; i < 2; i++) {
        DType dtype = i ? DT_BF16 : DT_F32;
        if (i && d->compute == DT_F32) continue; /* the CPU computes in f32 */
        bad += gather(c, d, dtype, false) + gather(c, d, dtype, true);
        bad += scatter(c, d, dtype, false) + scatter(c, d, dtype, true);
        for (int k = 0; k < 4; k++)
            if (k < 2 || dtype != DT_F32)
                bad += reduce_exactly(c, d, dtype, k < 2 ? DT_F32 : dtype, k % 2);
        bad += reduce(c, d, dtype, ODD) + reduce(c, d, dtype, 2) + broadcast(c, d, dtype);
    }
    bad += sum_is_exact(c, d) + mute(c, d) + under_way(c, d);
    comm_barrier(c);
    return bad;
}
