/* Tokens per second of a training step on the CPU: random weights, random tokens, packed documents of one
 * length; forward, backward, clipping, AdamW.  One CSV line for each shape and method.
 *
 *   bench_cpu [shape|all] [full|lora|both] [threads] [seconds] */
#define _GNU_SOURCE /* clock_gettime */
#include "base/str.h"
#include "dist/shard.h"
#include "model/lora.h"
#include "optim/adamw.h"
#include "optim/clip.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct Shape {
    const char *name;
    int64_t layers, width, heads, kv_heads, ffn, vocab, doc_len, n_docs;
} Shape;

static const Shape shapes[] = {
    {"stories260k", 5, 64, 8, 4, 172, 512, 256, 8},
    {"stories260k-short", 5, 64, 8, 4, 172, 512, 64, 32},
    {"width-128", 4, 128, 4, 2, 344, 1024, 128, 16},
    {"width-192", 5, 192, 6, 6, 512, 2000, 256, 8},
};
enum { N_SHAPES = sizeof shapes / sizeof shapes[0], MAX_TOKENS = 2048 };

typedef struct Bench {
    const Shape *shape;
    bool lora;
    int64_t tokens;
    Device dev;
    Comm comm;
    Llama model;
    LoraSet adapters;
    ShardSet shards;
    Arena *arena;
    int32_t cu[MAX_TOKENS + 1];
    Tensor ids, positions, samples, targets, docs_cu;
    Tensor scalars, sum_squares, loss_sum;
} Bench;

static double now(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static Tensor vector(Bench *b, DType dtype, int64_t n, const void *values)
{
    Tensor t = tensor_alloc(&b->dev, dtype, 1, &n, MEM_ACTIVATION);
    if (values)
        tensor_write(&b->dev, &t, values);
    else
        tensor_zero(&b->dev, &t);
    return t;
}

static void make_batch(Bench *b)
{
    const Shape *s = b->shape;
    int32_t ids[MAX_TOKENS], positions[MAX_TOKENS], targets[MAX_TOKENS];
    int64_t samples[MAX_TOKENS];
    for (int64_t i = 0; i < b->tokens; i++) {
        ids[i] = (int32_t)rng_below(1, (uint64_t)i, (uint64_t)s->vocab);
        targets[i] = (int32_t)rng_below(2, (uint64_t)i, (uint64_t)s->vocab);
        positions[i] = (int32_t)(i % s->doc_len);
        samples[i] = i / s->doc_len;
    }
    for (int64_t i = 0; i <= s->n_docs; i++)
        b->cu[i] = (int32_t)(i * s->doc_len);
    b->ids = vector(b, DT_I32, b->tokens, ids);
    b->positions = vector(b, DT_I32, b->tokens, positions);
    b->targets = vector(b, DT_I32, b->tokens, targets);
    b->samples = vector(b, DT_I64, b->tokens, samples);
    b->docs_cu = vector(b, DT_I32, s->n_docs + 1, b->cu);
    b->scalars = vector(b, DT_F32, STEP_N, NULL);
    b->sum_squares = vector(b, DT_F32, 1, NULL);
    b->loss_sum = vector(b, DT_F32, 1, NULL);
}

static void make_model(Bench *b)
{
    const Shape *s = b->shape;
    LlamaConfig cfg;
    if (!llama_config_preset(&cfg, "tiny")) panic("no preset tiny");
    cfg.n_layers = s->layers;
    cfg.hidden_size = s->width;
    cfg.n_heads = s->heads;
    cfg.n_kv_heads = s->kv_heads;
    cfg.head_dim = s->width / s->heads;
    cfg.intermediate_size = s->ffn;
    cfg.vocab_size = s->vocab;
    cfg.tie_word_embeddings = true;
    llama_init(&b->model, &cfg, &b->dev, s->doc_len);
    if (b->lora) {
        char *target = "all-linear";
        LoraOpts opts = {
            .rank = 8, .alpha = 16, .dropout = 0.05, .targets = &target, .n_targets = 1};
        Err err = {0};
        if (lora_attach(&b->adapters, &b->model, &opts, &err) != OK) panic("%s", err.line);
    } else {
        for (int i = 0; i < b->model.params.n; i++)
            param_set_trained(b->model.params.items[i], true);
    }
    llama_collect_params(&b->model);
    b->comm = comm_self();
    shards_init(&b->shards, &b->dev, &b->comm, &b->model.params, NULL);
    for (int i = 0; i < b->model.params.n; i++) {
        Tensor *t = &b->model.params.items[i]->t;
        int64_t n = tensor_numel(t);
        float *values = xmalloc((size_t)n * sizeof *values);
        for (int64_t k = 0; k < n; k++)
            values[k] = t->n_dims == 1 ? 1.0f : 0.02f * (float)rng_normal((uint64_t)i, (uint64_t)k);
        tensor_write_f32(&b->dev, t, values);
        free(values);
    }
}

static void step(Bench *b, int64_t t)
{
    Device *d = &b->dev;
    AdamwOpts opts = {.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.01};
    adamw_begin(d, &b->scalars, &opts, 1e-3, t);
    tensor_zero(d, &b->loss_sum);
    shards_begin_step(&b->shards);
    Ctx c = {.dev = d,
             .arena = b->arena,
             .scope = scope_new(d, b->arena),
             .tape = tape_new(b->arena),
             .key = (uint64_t)t};
    Batch batch = {.ids = &b->ids,
                   .positions = &b->positions,
                   .samples = &b->samples,
                   .docs = {&b->docs_cu, b->cu, (int)b->shape->n_docs, b->shape->doc_len},
                   .dropout = true};
    scope_push(c.scope);
    Tensor *h = llama_forward(&c, &b->model, &batch);
    Tensor *loss = op_linear_xent(&c, h, llama_head(&b->model), &b->targets,
                                  1.0f / (float)b->tokens, &b->loss_sum, NULL, 0);
    scope_pop(c.scope, loss);
    tensor_seed_grad(&c, loss, 1);
    tape_backward(&c);
    tape_free(c.tape);
    scope_free(c.scope);
    arena_reset(b->arena);
    shards_finish_grads(&b->shards);
    for (int i = 0; i < b->shards.n; i++) {
        ParamShard *sh = &b->shards.items[i];
        Tensor *grad = &sh->grad;
        clip_sum_squares(d, &b->sum_squares, &grad, 1);
        clip_by_global_norm(d, &b->scalars, &b->sum_squares, &b->loss_sum, 1);
        AdamwArray all = {.weights = sh->weights,
                          .grad = sh->grad,
                          .states = states_view(&sh->states, 0, sh->numel),
                          .args = adamw_args(&opts)};
        adamw_add_range(&all.args, &opts, sh->numel, 1, true);
        adamw_update(d, &all, &b->scalars);
    }
}

static void clear(Bench *b)
{
    Tensor *all[] = {&b->ids,     &b->positions, &b->samples,     &b->targets,
                     &b->docs_cu, &b->scalars,   &b->sum_squares, &b->loss_sum};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        tensor_clear(all[i]);
    shards_clear(&b->shards);
    if (b->lora) lora_detach(&b->adapters, &b->model);
    llama_clear(&b->model);
    arena_free(b->arena);
    device_close(&b->dev);
}

static void run(const Shape *shape, bool lora, int threads, double seconds)
{
    Bench *b = xcalloc(1, sizeof *b);
    b->shape = shape;
    b->lora = lora;
    b->tokens = shape->doc_len * shape->n_docs;
    Err err = {0};
    if (device_open(&b->dev, backend_find("cpu"), &(DeviceOpts){.threads = threads}, DT_F32,
                    &err) != OK)
        panic("%s", err.line);
    b->arena = arena_new(1 << 18);
    make_batch(b);
    make_model(b);
    int64_t n = 0;
    for (; n < 3; n++)
        step(b, n + 1);
    double begin = now(CLOCK_MONOTONIC), cpu = now(CLOCK_PROCESS_CPUTIME_ID), best = 1e9;
    for (double at = begin; at - begin < seconds; n++) {
        step(b, n + 1);
        double end = now(CLOCK_MONOTONIC);
        if (end - at < best) best = end - at;
        at = end;
    }
    double mean = (now(CLOCK_MONOTONIC) - begin) / (double)(n - 3);
    cpu = (now(CLOCK_PROCESS_CPUTIME_ID) - cpu) / (double)(n - 3);
    float loss;
    tensor_read(&b->dev, &b->loss_sum, &loss);
    printf("%s,%s,%d,%lld,%.2f,%.2f,%.2f,%.0f,%.1f,%.4f\n", shape->name, lora ? "lora" : "full",
           pool_size(b->dev.pool), (long long)b->tokens, mean * 1e3, best * 1e3, cpu * 1e3,
           (double)b->tokens / mean, (double)b->dev.mem.peak_total / 1048576.0,
           (double)loss / (double)b->tokens);
    fflush(stdout);
    clear(b);
    free(b);
}

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "all", *method = argc > 2 ? argv[2] : "both";
    int threads = argc > 3 ? atoi(argv[3]) : 0;
    double seconds = argc > 4 ? atof(argv[4]) : 3;
    printf("shape,method,threads,tokens,mean_ms,best_ms,cpu_ms,tokens_per_s,peak_mib,loss\n");
    for (int i = 0; i < N_SHAPES; i++) {
        if (strcmp(name, "all") != 0 && strcmp(name, shapes[i].name) != 0) continue;
        if (strcmp(method, "lora") != 0) run(&shapes[i], false, threads, seconds);
        if (strcmp(method, "full") != 0) run(&shapes[i], true, threads, seconds);
    }
    return 0;
}
