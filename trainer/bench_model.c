/* The model of a benchmark and the batches that it is shown. */
#include "model/hf_files.h"
#include "trainer/apply.h"
#include "trainer/bench_batch.h"
#include "trainer/bench_impl.h"

static const uint64_t SEED = 1;

ShardOpts bench_shards(const BenchOpts *o, int ranks)
{
    return (ShardOpts){.zero = ranks > 1 ? o->zero : 0,
                       .grads = o->gradients,
                       .reduce = o->reduce,
                       .exact = o->gradients == DT_BF16 && o->reduce == DT_F32 && !o->widen,
                       .ahead = o->prefetch,
                       .states = o->states,
                       .in_backward = o->in_backward};
}

Status bench_open_model(Bench *b, Comm *comm, Err *err)
{
    const BenchOpts *o = b->opts;
    llama_init(&b->model, &o->shape, &b->dev, o->seq);
    b->has_model = true;
    llama_quantize(&b->model, &o->quant);
    if (o->method != METHOD_FULL) {
        if (lora_attach(&b->lora, &b->model, &o->lora, err) != OK)
            return err_wrap(err, E_INPUT, "--%s", err->key);
        b->has_lora = true;
    } else {
        apply_full(&b->model);
    }
    const char *needed = llama_needs_embedding(&b->model);
    if (o->embed_on_host && needed)
        return err_set(err, E_INPUT, "--embedding: host is not possible, for %s", needed);
    if (o->embed_on_host) llama_embed_on_host(&b->model, o->threads);
    recompute_apply(&b->model, b->mix);
    ShardOpts shards = bench_shards(o, comm->size);
    shards.host = host_home_shards(&b->home);
    shards_init(&b->shards, &b->dev, comm, &b->model.params, &shards);
    apply_shards(&b->model, &b->shards);
    model_init_random(&b->model, SEED);
    if (b->has_lora) lora_init_weights(&b->lora, &b->dev, SEED);
    StepOpts step = {.update = {.adamw = {.beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8},
                                .clip = 1,
                                .clip_by = o->in_backward ? CLIP_BLOCK : CLIP_GLOBAL,
                                .in_backward = o->in_backward},
                     .micro_rows = o->micro,
                     .seed = SEED,
                     .scratches = o->scratches,
                     .decode_ahead = o->decode_ahead};
    b->stepper = stepper_new(&b->model, &b->shards, NULL, &step, NULL);
    return OK;
}

void bench_close_model(Bench *b)
{
    stepper_free(b->stepper);
    b->stepper = NULL;
    shards_clear(&b->shards);
    if (b->has_lora) lora_detach(&b->lora, &b->model);
    if (b->has_model) llama_clear(&b->model);
    b->has_lora = b->has_model = false;
}

void bench_close(Bench *b)
{
    bench_close_model(b);
    for (int i = 0; i < BENCH_MAX_LINES; i++)
        host_batch_clear(&b->batches[i]);
    host_home_close(&b->home);
    if (b->dev.backend) device_close(&b->dev);
}

void bench_make_batches(Bench *b, BenchResult *out)
{
    const BenchOpts *o = b->opts;
    int64_t V = o->shape.vocab_size;
    out->n_lines = 0;
    if (o->full) {
        bench_batch_full(&b->batches[out->n_lines], o->micro, o->seq, V, SEED);
        out->lines[out->n_lines++].packed = false;
    }
    if (o->packed) {
        bench_batch_packed(&b->batches[out->n_lines], o->micro, o->seq, o->lens, o->n_lens, V,
                           SEED);
        out->lines[out->n_lines++].packed = true;
    }
    b->batch = &b->batches[0];
}

StepResult bench_step(Bench *b)
{
    return stepper_run_batches(b->stepper, b->batch, 1, 1e-5, ++b->t);
}
