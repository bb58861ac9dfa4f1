/* Products by cuBLASLt.  A row-major matrix is handed over as the column-major matrix of its transpose, so
 * C^T = op(B)^T op(A)^T and no layout attribute narrows the choice of kernels.
 *
 * The first shape of a class is timed among the heuristic's candidates (the first of them is up to 8 % slower than the best).
 * What was fastest serves the whole class: hardly two packed batches have the same number of tokens, and timing all products
 * of a step takes longer than the step.  Choices are kept in memory and in a file by GPU and library version. */
#include "base/fs.h"
#include "base/hash.h"
#include "base/str.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/table.h"

#include <cublasLt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CANDIDATES = 16, FINALISTS = 4, ROUNDS = 3, MOST_PLANS = 4096 };
static const size_t WORKSPACE_BYTES = (size_t)32 << 20; /* what NVIDIA recommends on Hopper */

typedef struct Key {
    int64_t m, n, k, ld_a, ld_b, ld_c, ld_add; /* ld_add 0: nothing is added, or c itself */
    int64_t sms;                               /* to be used; 0: all */
    int32_t trans_a, trans_b, in, out, beta, align;
} Key;

typedef struct Choice { /* as it stands in the file */
    Key key;            /* of a class */
    cublasLtMatmulAlgo_t algo;
} Choice;

typedef struct Plan {
    Key key;
    cublasLtMatmulDesc_t op;
    cublasLtMatrixLayout_t a, b, c, add; /* add is c where nothing else is added */
    cublasLtMatmulAlgo_t algo;
} Plan;

typedef struct Matmul {
    cublasLtHandle_t handle;
    void *workspace;
    Plan *plans; /* of exact shapes; open addressing, n_slots a power of two; op NULL: free */
    int n_plans, n_slots;
    Choice *choices; /* from the file and of this run */
    int n_choices, n_saved;
    char *path; /* NULL: no file */
    bool
        timed; /* else the heuristic's first answer stands, which does not change from run to run */
} Matmul;

#define LT_CHECK(call)                                                                             \
    do {                                                                                           \
        cublasStatus_t lt_status_ = (call);                                                        \
        if (lt_status_ != CUBLAS_STATUS_SUCCESS)                                                   \
            panic("cuBLASLt: %s on GPU %d: %s", #call, cuda_ordinal(),                             \
                  cublasLtGetStatusString(lt_status_));                                            \
    } while (0)

static char *choices_path(const Device *d)
{
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (!cache && !home) return NULL;
    char *dir = cache ? str_format("%s/lorac", cache) : str_format("%s/.cache/lorac", home);
    char name[64];
    snprintf(name, sizeof name, "%.60s", cuda_impl(d)->name);
    for (char *c = name; *c; c++)
        if (*c == ' ' || *c == '/') *c = '-';
    Err err;
    char *path = dir_make(dir, &err) == OK
                     ? str_format("%s/matmul-%s-%zu.bin", dir, name, cublasLtGetVersion())
                     : NULL;
    free(dir);
    return path;
}

/* The file: choices one after the other, then a hash of them all; anything else is ignored.  The seed keeps files of
 * another layout of Choice, choices among fewer, and those of single shapes (FORMAT 1) apart. */
static uint64_t choices_hash(const void *choices, size_t bytes)
{
    enum { FORMAT = 2 };
    return hash64(choices, bytes, FORMAT * sizeof(Choice) * CANDIDATES);
}

static void choices_load(Matmul *mm)
{
    char *data;
    size_t len;
    Err err;
    if (!mm->path || !path_exists(mm->path) || file_read(&data, &len, mm->path, &err) != OK) return;
    size_t n = len / sizeof(Choice);
    uint64_t hash;
    if (len == n * sizeof(Choice) + sizeof hash) {
        memcpy(&hash, data + n * sizeof(Choice), sizeof hash);
        if (hash == choices_hash(data, n * sizeof(Choice))) {
            mm->choices = xmalloc(n * sizeof(Choice));
            memcpy(mm->choices, data, n * sizeof(Choice));
            mm->n_choices = mm->n_saved = (int)n;
        }
    }
    free(data);
}

static void choices_save(Matmul *mm)
{
    if (!mm->path || mm->n_saved == mm->n_choices) return;
    StrBuf b = {0};
    size_t bytes = (size_t)mm->n_choices * sizeof(Choice);
    strbuf_append(&b, (const char *)mm->choices, bytes);
    uint64_t hash = choices_hash(mm->choices, bytes);
    strbuf_append(&b, (const char *)&hash, sizeof hash);
    Err err;
    if (file_write_atomic(mm->path, b.data, b.len, &err) == OK) mm->n_saved = mm->n_choices;
    strbuf_clear(&b);
}

void cuda_matmul_open(Device *d)
{
    Matmul *mm = xcalloc(1, sizeof *mm);
    LT_CHECK(cublasLtCreate(&mm->handle));
    CUDA_CHECK(cudaMalloc(&mm->workspace, WORKSPACE_BYTES));
    mm->n_slots = 256;
    mm->plans = xcalloc((size_t)mm->n_slots, sizeof(Plan));
    mm->timed = !cuda_impl(d)->deterministic;
    if (mm->timed) mm->path = choices_path(d);
    choices_load(mm);
    cuda_impl(d)->matmul = mm;
}

static void forget_plans(Matmul *mm)
{
    for (int i = 0; i < mm->n_slots; i++) {
        Plan *p = &mm->plans[i];
        if (!p->op) continue;
        cublasLtMatmulDescDestroy(p->op);
        cublasLtMatrixLayoutDestroy(p->a);
        cublasLtMatrixLayoutDestroy(p->b);
        if (p->add != p->c) cublasLtMatrixLayoutDestroy(p->add);
        cublasLtMatrixLayoutDestroy(p->c);
        *p = (Plan){0};
    }
    mm->n_plans = 0;
}

void cuda_matmul_close(Device *d)
{
    Matmul *mm = cuda_impl(d)->matmul;
    choices_save(mm);
    forget_plans(mm);
    CUDA_CHECK(cudaFree(mm->workspace));
    LT_CHECK(cublasLtDestroy(mm->handle));
    free(mm->plans);
    free(mm->choices);
    free(mm->path);
    free(mm);
}

static cudaDataType_t cuda_type(DType t)
{
    ASSERT(t == DT_F32 || t == DT_BF16, "matmul of %s", dtype_name(t));
    return t == DT_F32 ? CUDA_R_32F : CUDA_R_16BF;
}

static cublasLtMatrixLayout_t layout_of(DType t, int64_t rows, int64_t cols, int64_t ld)
{
    cublasLtMatrixLayout_t l;
    /* row-major rows x cols is column-major cols x rows */
    LT_CHECK(cublasLtMatrixLayoutCreate(&l, cuda_type(t), (uint64_t)cols, (uint64_t)rows, ld));
    return l;
}

typedef struct Call {
    const void *a, *b, *add; /* add is c where nothing else is added */
    void *c;
    float alpha, beta;
} Call;

/* The largest power of two up to 256 that divides all addresses. */
static int32_t alignment(const Call *call)
{
    uintptr_t bits =
        (uintptr_t)call->a | (uintptr_t)call->b | (uintptr_t)call->add | (uintptr_t)call->c | 256;
    return (int32_t)(bits & (~bits + 1));
}

static cublasStatus_t run(Matmul *mm, const Plan *p, const Call *call, void *out,
                          const cublasLtMatmulAlgo_t *algo, cudaStream_t stream)
{
    /* operands change places: see the head of the file */
    return cublasLtMatmul(mm->handle, p->op, &call->alpha, call->b, p->b, call->a, p->a,
                          &call->beta, call->add == call->c ? out : call->add, p->add, out, p->c,
                          algo, mm->workspace, WORKSPACE_BYTES, stream);
}

/* A candidate runs `runs` times; milliseconds for one, negative: it cannot run. */
static float time_candidate(Matmul *mm, const Plan *p, const Call *call, void *out,
                            const cublasLtMatmulAlgo_t *algo, int runs, cudaStream_t stream,
                            cudaEvent_t e[2])
{
    CUDA_CHECK(cudaEventRecord(e[0], stream));
    for (int i = 0; i < runs; i++)
        if (run(mm, p, call, out, algo, stream) != CUBLAS_STATUS_SUCCESS) return -1;
    CUDA_CHECK(cudaEventRecord(e[1], stream));
    CUDA_CHECK(cudaEventSynchronize(e[1]));
    float ms;
    CUDA_CHECK(cudaEventElapsedTime(&ms, e[0], e[1]));
    return ms / (float)runs;
}

/* The fastest of n: one look at each shows who has no chance; the best few run again in turns, so that a clock that
 * changes meanwhile favours nobody. */
static int fastest(Matmul *mm, const Plan *p, const Call *call, void *out,
                   const cublasLtMatmulHeuristicResult_t *found, int n, cudaStream_t stream)
{
    double flops = 2.0 * (double)p->key.m * (double)p->key.n * (double)p->key.k;
    int runs = flops < 1e11 ? 8 : 1; /* short ones are hard to time */
    cudaEvent_t e[2];
    CUDA_CHECK(cudaEventCreate(&e[0]));
    CUDA_CHECK(cudaEventCreate(&e[1]));
    float ms[FINALISTS]; /* ascending */
    int which[FINALISTS], n_finalists = 0;
    for (int i = 0; i < n; i++) {
        const cublasLtMatmulAlgo_t *algo = &found[i].algo;
        if (time_candidate(mm, p, call, out, algo, 1, stream, e) < 0) continue; /* warms up */
        float t = time_candidate(mm, p, call, out, algo, runs, stream, e);
        if (n_finalists == FINALISTS && ms[FINALISTS - 1] <= t) continue;
        int at = n_finalists < FINALISTS ? n_finalists++ : FINALISTS - 1;
        for (; at > 0 && ms[at - 1] > t; at--) {
            ms[at] = ms[at - 1];
            which[at] = which[at - 1];
        }
        ms[at] = t;
        which[at] = i;
    }
    for (int round = 0; round < ROUNDS && n_finalists > 1; round++)
        for (int f = 0; f < n_finalists; f++) {
            float t = time_candidate(mm, p, call, out, &found[which[f]].algo, 2 * runs, stream, e);
            ms[f] = round == 0 ? t : ms[f] + t;
        }
    CUDA_CHECK(cudaEventDestroy(e[0]));
    CUDA_CHECK(cudaEventDestroy(e[1]));
    int best = 0;
    for (int f = 1; f < n_finalists; f++)
        if (ms[f] < ms[best]) best = f;
    return n_finalists > 0 ? which[best] : 0;
}

/* Eight classes an octave, so that the sizes of one are at most an eighth apart; each up to 16 is one. */
static int64_t size_class(int64_t size)
{
    int64_t step = 1;
    while (size > 16 * step)
        step *= 2;
    return (size + step - 1) / step * step;
}

static Key class_of(const Key *key)
{
    Key k = *key;
    k.m = size_class(k.m);
    k.n = size_class(k.n);
    k.k = size_class(k.k);
    return k;
}

static const Choice *choice_of(const Matmul *mm, const Key *class)
{
    for (int i = 0; i < mm->n_choices; i++)
        if (memcmp(&mm->choices[i].key, class, sizeof *class) == 0) return &mm->choices[i];
    return NULL;
}

/* Whether what was chosen for another shape of the class computes this one, too. */
static bool takes(const Matmul *mm, const Plan *p, const cublasLtMatmulAlgo_t *algo)
{
    cublasLtMatmulHeuristicResult_t r;
    return cublasLtMatmulAlgoCheck(mm->handle, p->op, p->b, p->a, p->add, p->c, algo, &r) ==
               CUBLAS_STATUS_SUCCESS &&
           r.workspaceSize <= WORKSPACE_BYTES;
}

/* Picks p->algo: the class's, where it has one that takes this shape.  A product that adds to its own output is timed into
 * memory of its own; when there is none, or for a single candidate or a deterministic device, the heuristic's first
 * answer stands. */
static void choose(Matmul *mm, Plan *p, const Call *call, cudaStream_t stream)
{
    const Key class = class_of(&p->key);
    const Choice *chosen = choice_of(mm, &class);
    if (chosen && takes(mm, p, &chosen->algo)) {
        p->algo = chosen->algo;
        return;
    }
    cublasLtMatmulPreference_t pref;
    LT_CHECK(cublasLtMatmulPreferenceCreate(&pref));
    LT_CHECK(cublasLtMatmulPreferenceSetAttribute(pref, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                  &WORKSPACE_BYTES, sizeof WORKSPACE_BYTES));
    uint32_t align = (uint32_t)p->key.align;
    const cublasLtMatmulPreferenceAttributes_t aligns[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    for (int i = 0; i < 4; i++)
        LT_CHECK(cublasLtMatmulPreferenceSetAttribute(pref, aligns[i], &align, sizeof align));
    cublasLtMatmulHeuristicResult_t found[CANDIDATES];
    int n = 0;
    LT_CHECK(cublasLtMatmulAlgoGetHeuristic(mm->handle, p->op, p->b, p->a, p->add, p->c, pref,
                                            CANDIDATES, found, &n));
    cublasLtMatmulPreferenceDestroy(pref);
    ASSERT(n > 0, "cuBLASLt has no algorithm for %lld x %lld x %lld", (long long)p->key.m,
           (long long)p->key.n, (long long)p->key.k);
    p->algo = found[0].algo;
    if (n == 1 || !mm->timed || chosen) return;

    size_t bytes = (size_t)p->key.m * (size_t)p->key.ld_c * dtype_bytes((DType)p->key.out);
    void *out = call->c;
    if (call->beta != 0 && call->add == call->c && cudaMalloc(&out, bytes) != cudaSuccess) {
        (void)cudaGetLastError();
        return;
    }
    p->algo = found[fastest(mm, p, call, out, found, n, stream)].algo;
    if (out != call->c) CUDA_CHECK(cudaFree(out));
    mm->choices = xrealloc(mm->choices, (size_t)(mm->n_choices + 1) * sizeof(Choice));
    memset(&mm->choices[mm->n_choices], 0, sizeof(Choice));
    mm->choices[mm->n_choices].key = class;
    mm->choices[mm->n_choices++].algo = p->algo;
}

static Plan *slot_of(Matmul *mm, const Key *key)
{
    uint64_t h = hash64(key, sizeof *key, 0);
    for (int i = 0;; i++) {
        Plan *p = &mm->plans[(h + (uint64_t)i) & (uint64_t)(mm->n_slots - 1)];
        if (!p->op || memcmp(&p->key, key, sizeof *key) == 0) return p;
    }
}

static void grow(Matmul *mm)
{
    Plan *old = mm->plans;
    int n = mm->n_slots;
    mm->n_slots *= 2;
    mm->plans = xcalloc((size_t)mm->n_slots, sizeof(Plan));
    for (int i = 0; i < n; i++)
        if (old[i].op) *slot_of(mm, &old[i].key) = old[i];
    free(old);
}

static Plan *plan_of(Matmul *mm, const Key *key, const Tensor *c, const Tensor *a, const Tensor *b,
                     const Tensor *add, const Call *call, cudaStream_t stream)
{
    Plan *p = slot_of(mm, key);
    if (p->op) return p;
    if (mm->n_plans == MOST_PLANS) {
        forget_plans(mm);
        p = slot_of(mm, key);
    } else if (2 * (mm->n_plans + 1) > mm->n_slots) {
        grow(mm);
        p = slot_of(mm, key);
    }
    mm->n_plans++;
    p->key = *key;
    cublasOperation_t op_b = key->trans_b ? CUBLAS_OP_T : CUBLAS_OP_N;
    cublasOperation_t op_a = key->trans_a ? CUBLAS_OP_T : CUBLAS_OP_N;
    LT_CHECK(cublasLtMatmulDescCreate(&p->op, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    LT_CHECK(
        cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_TRANSA, &op_b, sizeof op_b));
    LT_CHECK(
        cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_TRANSB, &op_a, sizeof op_a));
    int32_t sms = (int32_t)key->sms;
    if (sms > 0)
        LT_CHECK(cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_SM_COUNT_TARGET, &sms,
                                                sizeof sms));
    p->a = layout_of(a->dtype, tensor_rows(a), tensor_cols(a), a->ld);
    p->b = layout_of(b->dtype, tensor_rows(b), tensor_cols(b), b->ld);
    p->c = layout_of(c->dtype, tensor_rows(c), tensor_cols(c), c->ld);
    p->add = add ? layout_of(c->dtype, tensor_rows(c), tensor_cols(c), add->ld) : p->c;
    choose(mm, p, call, stream);
    return p;
}

void cuda_matmul(Device *d, Tensor *c, const Tensor *a, const Tensor *b, MatmulArgs args)
{
    Matmul *mm = cuda_impl(d)->matmul;
    int64_t m = tensor_rows(c), n = tensor_cols(c),
            k = args.trans_a ? tensor_rows(a) : tensor_cols(a);
    ASSERT((args.trans_a ? tensor_cols(a) : tensor_rows(a)) == m &&
               (args.trans_b ? tensor_rows(b) : tensor_cols(b)) == n &&
               (args.trans_b ? tensor_cols(b) : tensor_rows(b)) == k,
           "matmul: shapes (%lld,%lld) (%lld,%lld) -> (%lld,%lld)", (long long)tensor_rows(a),
           (long long)tensor_cols(a), (long long)tensor_rows(b), (long long)tensor_cols(b),
           (long long)m, (long long)n);
    const Tensor *add = args.beta != 0 ? args.add : NULL;
    ASSERT(!add || (tensor_same_shape(add, c) && add->dtype == c->dtype),
           "matmul: add is not as the output is");
    if (m == 0 || n == 0) return;
    if (k == 0) {
        if (add) cuda_copy(d, c, add);
        if (args.beta == 0) tensor_zero(d, c);
        return;
    }
    if (cuda_matvec_takes(a, b, args)) {
        cuda_matvec(d, c, a, b, args);
        return;
    }
    Call call = {tensor_data(a), tensor_data(b), tensor_data(add ? add : c),
                 tensor_data(c), args.alpha,     args.beta};
    Key key;
    memset(&key, 0, sizeof key); /* padding is part of the hash */
    key = (Key){m,
                n,
                k,
                a->ld,
                b->ld,
                c->ld,
                add ? add->ld : 0,
                d->spare_sms > 0 ? cuda_impl(d)->n_sms - d->spare_sms : 0,
                args.trans_a,
                args.trans_b,
                (int32_t)a->dtype,
                (int32_t)c->dtype,
                args.beta != 0,
                alignment(&call)};
    Plan *p = plan_of(mm, &key, c, a, b, add, &call, cuda_stream(d));
    LT_CHECK(run(mm, p, &call, call.c, &p->algo, cuda_stream(d)));
}
