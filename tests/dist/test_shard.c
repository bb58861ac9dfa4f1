/* Layout of shards, what shares storage with what, and a run of one rank's collectives. */
#include "autograd/tape.h"
#include "base/str.h"
#include "dist/shard.h"
#include "tests/support/ranks.h"

#include <criterion/criterion.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>

static void open_device(Device *d, DType compute)
{
    Err err = {0};
    DeviceOpts opts = {.threads = 1, .region_bytes = 1 << 20};
    cr_assert_eq(device_open(d, backend_find("cpu"), &opts, compute, &err), OK, "%s", err.line);
}

Test(shard, arrays_hold_the_trained_parameters_by_unit)
{
    Device d;
    open_device(&d, DT_F32);
    Param embed, qkv, bias, norm;
    param_init(&embed, "embed", DT_F32, 5, 3, 0);
    param_init(&qkv, "qkv", DT_F32, 7, 3, 1);
    param_set_slices(&qkv, 3, (const char *const[]){"q", "k", "v"}, (const int64_t[]){4, 1, 2});
    param_init(&bias, "bias", DT_F32, 7, 0, 1);
    param_init(&norm, "norm", DT_F32, 3, 0, 2);
    ParamSet set = {0};
    Param *all[] = {&embed, &qkv, &bias, &norm};
    for (int i = 0; i < 4; i++)
        paramset_add(&set, all[i]);
    param_set_trained(&qkv, true);
    param_set_trained(&bias, true);
    param_set_trained(&norm, true);

    Comm self = comm_self();
    ShardSet s;
    shards_init(&s, &d, &self, &set, NULL);
    cr_assert_eq(s.n, 2); /* nothing of unit 0 is trained */
    cr_assert_null(embed.t.grad);
    cr_assert_not_null(embed.t.storage);
    ParamShard *one = &s.items[0];
    cr_assert_eq(one->n_ranges, 4);
    cr_assert_eq(one->numel, 512); /* 21 and 7, each rounded up to 256 */
    int64_t offsets[] = {0, 12, 15, 256}, sizes[] = {12, 3, 6, 7};
    for (int i = 0; i < 4; i++) {
        cr_assert_eq(one->ranges[i].offset, offsets[i], "range %d", i);
        cr_assert_eq(one->ranges[i].numel, sizes[i], "range %d", i);
    }
    cr_assert(one->ranges[1].decay);
    cr_assert(!one->ranges[3].decay); /* a vector */
    cr_assert_str_eq(shard_range_name(&one->ranges[2]), "v");
    cr_assert_eq(shards_numel(&s), 21 + 7 + 3);

    /* the parameter is the array of weights, its gradient the gradient array */
    cr_assert_eq(tensor_data(&qkv.t), tensor_data(&one->weights));
    cr_assert_eq((char *)tensor_data(&bias.t), (char *)tensor_data(&one->weights) + 256 * 4);
    cr_assert_eq((char *)tensor_data(bias.t.grad), (char *)tensor_data(&one->grad) + 256 * 4);
    cr_assert_eq((uintptr_t)tensor_data(&bias.t) % 256, 0);

    /* a gradient that nothing reached is 0 after the step, one that was reached is kept */
    float fill[21], zero[7];
    for (int i = 0; i < 21; i++)
        fill[i] = (float)i;
    tensor_write(&d, qkv.t.grad, fill);
    tensor_write(&d, bias.t.grad, fill);
    shards_begin_step(&s);
    qkv.t.grad_written = true;
    shards_finish_grads(&s);
    tensor_read(&d, bias.t.grad, zero);
    for (int i = 0; i < 7; i++)
        cr_assert_eq(zero[i], 0.0f);
    tensor_read(&d, qkv.t.grad, fill);
    cr_assert_eq(fill[20], 20.0f);

    /* the fingerprint sees every value */
    tensor_zero(&d, &one->weights);
    tensor_zero(&d, &s.items[1].weights);
    uint64_t before = shards_hash(&s);
    float last[3] = {0, 0, 1e-30f};
    tensor_write(&d, &norm.t, last);
    cr_assert_neq(shards_hash(&s), before);

    shards_clear(&s);
    for (int i = 0; i < 4; i++)
        param_clear(all[i]);
    paramset_clear(&set);
    device_close(&d); /* dies when something is left */
}

/* On a bf16 device the master copies are the working ones and 16 bits beside them: written and read whole, slice by
 * slice, and seen by the fingerprint to the last bit. */
Test(shard, master_copies_beside_bf16_weights_are_exact)
{
    Device d;
    open_device(&d, DT_BF16);
    Param qkv, norm;
    param_init(&qkv, "qkv", DT_BF16, 7, 3, 0);
    param_set_slices(&qkv, 3, (const char *const[]){"q", "k", "v"}, (const int64_t[]){4, 1, 2});
    param_init(&norm, "norm", DT_BF16, 3, 0, 0);
    ParamSet set = {0};
    Param *all[] = {&qkv, &norm};
    for (int i = 0; i < 2; i++) {
        paramset_add(&set, all[i]);
        param_set_trained(all[i], true);
    }
    Comm self = comm_self();
    ShardSet s;
    shards_init(&s, &d, &self, &set, NULL);
    cr_assert_eq(tensor_data(&norm.low), (char *)tensor_data(&s.items[0].low) + 256 * 2);
    const float v[6] = {1.0f / 3, -2.0f / 3, 0x1.018p0f, -0x1.00ffp0f, 1e-40f, 3e38f},
                n[3] = {-0.0f, 5, 1e-9f};
    param_write(&d, &qkv, 2, v);
    param_write(&d, &norm, 0, n);
    float got[6];
    param_read(&d, &qkv, 2, got);
    cr_assert_arr_eq(got, v, sizeof v);
    param_read(&d, &norm, 0, got);
    cr_assert_arr_eq(got, n, sizeof n);
    Tensor view = param_slice_view(&qkv, 2);
    tensor_read_f32(&d, &view, got);
    const float nearest[6] = {0x1.56p-2f, -0x1.56p-1f, 0x1.02p0f,
                              -0x1.00p0f, 0x1p-133f,   0x1.c4p127f};
    for (int i = 0; i < 6; i++)
        cr_expect_eq(got[i], nearest[i], "%d: %a is not the nearest of %a", i, (double)got[i],
                     (double)v[i]);
    uint64_t before = shards_hash(&s);
    float other[3] = {-0.0f, 5, nextafterf(1e-9f, 1)};
    param_write(&d, &norm, 0, other);
    cr_assert_neq(shards_hash(&s), before);
    shards_clear(&s);
    for (int i = 0; i < 2; i++)
        param_clear(all[i]);
    paramset_clear(&set);
    device_close(&d);
}

typedef struct Taken {
    Device *dev;
    int units[8], n;
} Taken;

static int64_t take(void *ud, ParamShard *sh)
{
    Taken *t = ud;
    float got[512];
    cr_assert_eq(t->dev->mem.live[MEM_GRAD], (size_t)sh->total * sizeof(float));
    tensor_read(t->dev, &sh->grad, got);
    for (int64_t i = 0; i < sh->total; i++)
        cr_assert_eq(got[i], t->n == 1 && i >= 256 && i < 261 ? 1.0f : 0.0f, "unit %d, %d",
                     sh->unit, (int)i);
    t->units[t->n++] = sh->unit;
    return 0;
}

/* Gradients that are taken in backward: they have memory one unit at a time; what lay there before is not seen between
 * parameters or where nothing was written; units that no pass reached have gradient 0. */
Test(shard, gradients_taken_in_backward)
{
    Device d;
    open_device(&d, DT_F32);
    Param p[4];
    const int units[] = {0, 1, 1, 2};
    const int64_t rows[] = {70, 3, 5, 10};
    ParamSet set = {0};
    for (int i = 0; i < 4; i++) {
        char name[2] = {(char)('a' + i), 0};
        param_init(&p[i], name, DT_F32, rows[i], 0, units[i]);
        paramset_add(&set, &p[i]);
        param_set_trained(&p[i], true);
    }
    Comm self = comm_self();
    ShardSet s;
    Taken taken = {.dev = &d};
    shards_init(&s, &d, &self, &set, &(ShardOpts){.in_backward = true});
    s.done = take;
    s.done_ud = &taken;
    cr_assert_eq(d.mem.live[MEM_GRAD], 0);
    Segment seg[3] = {{.trained = true}, {.trained = true}, {.trained = true}}, *segs[3];
    ShardUse uses[3];
    for (int i = 0; i < 3; i++) {
        segs[i] = &seg[i];
        uses[i] = (ShardUse){.units = {i}, .n_units = 1, .name = "segment"};
    }
    uses[1].hold = true;
    shards_watch(&s, segs, uses, 3);
    shards_begin_step(&s);
    int64_t n = 4096;
    Tensor soil = tensor_alloc(&d, DT_F32, 1, &n, MEM_ACTIVATION);
    float sevens[4096], ones[5] = {1, 1, 1, 1, 1};
    for (int i = 0; i < 4096; i++)
        sevens[i] = 7;
    tensor_write(&d, &soil, sevens);
    tensor_clear(&soil);

    shards_begin_pass(&s, true);
    seg[2].hooks->enter_backward(seg[2].hooks_ud);
    seg[2].hooks->leave_backward(seg[2].hooks_ud);
    seg[1].hooks->enter_forward(seg[1].hooks_ud);
    tensor_write(&d, p[2].t.grad, ones); /* in the forward pass, as the head's */
    p[2].t.grad_written = true;
    seg[1].hooks->enter_backward(seg[1].hooks_ud);
    seg[1].hooks->leave_backward(seg[1].hooks_ud);
    shards_end_pass(&s);
    cr_assert_eq(taken.n, 2);
    shards_finish_grads(&s);
    cr_assert_eq(taken.n, 3);
    cr_assert(taken.units[0] == 2 && taken.units[1] == 1 && taken.units[2] == 0);
    cr_assert_eq(d.mem.live[MEM_GRAD], 0);
    s.done = NULL;
    shards_clear(&s);
    for (int i = 0; i < 4; i++)
        param_clear(&p[i]);
    paramset_clear(&set);
    device_close(&d);
}

static void expect_run(const States *s, int i, int64_t begin, int64_t end, StatesFormat format)
{
    cr_assert_lt(i, s->layout.n);
    const StatesRun *r = &s->layout.runs[i];
    cr_expect_eq(r->begin, begin, "run %d begins at %lld", i, (long long)r->begin);
    cr_expect_eq(r->end, end, "run %d ends at %lld", i, (long long)r->end);
    cr_expect_eq(r->format, format, "run %d", i);
}

/* What is small, an embedding, or does not begin with a block stays in f32; the rest has codes and absmax, wherever a rank's
 * part begins and ends; and ranks have the same memory. */
Test(shard, states_in_8_bits_belong_to_checkpoint_tensors)
{
    Device d;
    open_device(&d, DT_F32);
    Param p[4];
    param_init(&p[0], "embed", DT_F32, 64, 64, 0);
    param_init(&p[1], "qkv", DT_F32, 160, 64, 0);
    param_set_slices(&p[1], 3, (const char *const[]){"q", "k", "v"}, (const int64_t[]){80, 16, 64});
    param_init(&p[2], "odd", DT_F32, 65, 129, 0);
    param_set_slices(&p[2], 2, (const char *const[]){"one", "other"}, (const int64_t[]){33, 32});
    param_init(&p[3], "short", DT_F32, 4100, 0, 0);
    p[0].fp32_states = true;
    ParamSet set = {0};
    for (int i = 0; i < 4; i++) {
        paramset_add(&set, &p[i]);
        param_set_trained(&p[i], true);
    }
    Comm self = comm_self();
    ShardSet s;
    shards_init(&s, &d, &self, &set, &(ShardOpts){.states = STATES_INT8});
    const ParamShard *sh = &s.items[0];
    /* 4096, 5120 + 1024 + 4096, 8385 and 4100, in steps of 256 */
    const int64_t k = 4096 + 5120, v = k + 1024, odd = v + 4096, last = odd + 8448,
                  total = last + 4352;
    cr_assert_eq(sh->total, total);
    cr_assert_eq(sh->states.layout.n, 6);
    expect_run(&sh->states, 0, 0, 4096, STATES_FP32);
    expect_run(&sh->states, 1, 4096, k, STATES_INT8);
    expect_run(&sh->states, 2, k, v, STATES_FP32);
    expect_run(&sh->states, 3, v, odd, STATES_INT8);
    expect_run(&sh->states, 4, odd, last, STATES_FP32);
    expect_run(&sh->states, 5, last, total, STATES_INT8);

    AdamwStates view = states_view(&sh->states, last + 512, 3588);
    cr_expect_eq(view.m.dtype, DT_U8);
    cr_expect_eq(tensor_numel(&view.v), 3588);
    cr_expect_eq(tensor_numel(&view.m_max), 15);
    cr_expect_eq((char *)tensor_data(&view.v) - (char *)tensor_data(&view.m), total - last);
    cr_expect_eq((char *)tensor_data(&view.m_max) - (char *)tensor_data(&view.m),
                 2 * (total - last) - 512 + 2 * 4);
    view = states_view(&sh->states, k + 8, 16);
    cr_expect_eq(view.m.dtype, DT_F32);
    cr_expect_null(view.m_max.storage);
    cr_expect_eq((char *)tensor_data(&view.v) - (char *)tensor_data(&view.m), 4 * (v - k));

    /* parts of three ranks */
    int64_t part = (total / 3 + 255) / 256 * 256;
    StatesLayout whole = sh->states.layout;
    States parts[3];
    for (int i = 0; i < 3; i++) {
        states_init(&parts[i], &d, &whole, part, i);
        cr_expect_eq(tensor_numel(&parts[i].bytes), tensor_numel(&parts[0].bytes));
        cr_expect_geq((size_t)tensor_numel(&parts[i].bytes), parts[i].layout.bytes);
    }
    expect_run(&parts[1], 0, 0, v - part, STATES_FP32);
    expect_run(&parts[1], 1, v - part, odd - part, STATES_INT8);
    expect_run(&parts[1], 2, odd - part, part, STATES_FP32);
    expect_run(&parts[2], 0, 0, last - 2 * part, STATES_FP32);
    expect_run(&parts[2], 1, last - 2 * part, total - 2 * part, STATES_INT8);
    for (int i = 0; i < 3; i++)
        states_clear(&parts[i]);

    shards_clear(&s);
    for (int i = 0; i < 4; i++)
        param_clear(&p[i]);
    paramset_clear(&set);
    device_close(&d);
}

/* ---- what a rank keeps ------------------------------------------------------------------------ */

enum { ROWS = 37, COLS = 29, PITCH = 48, WIDE = 301 };

typedef struct Kept {
    pthread_mutex_t lock;
    int zero;
    int times[3][ROWS * WIDE]; /* how often each number of the three slices was somebody's */
} Kept;

/* Writes its number into each number that this rank keeps. */
static void write_pieces(Device *d, Param *p, int slice, int *times)
{
    ParamPiece pieces[PARAM_MAX_PIECES];
    int n = param_pieces(p, slice, pieces);
    for (int i = 0; i < n; i++) {
        const Tensor *t = &pieces[i].values;
        int64_t count = tensor_numel(t);
        float *host = xmalloc((size_t)count * sizeof *host);
        for (int64_t k = 0; k < count; k++) {
            times[pieces[i].first + k]++;
            host[k] = (float)(1000000 * slice + pieces[i].first + k);
        }
        tensor_write(d, &pieces[i].values, host);
        free(host);
    }
}

static void expect_numbers(Device *d, Param *p)
{
    param_open(p);
    for (int slice = 0; slice < p->n_slices; slice++) {
        int64_t n = param_slice_numel(p, slice);
        float *host = xmalloc((size_t)n * sizeof *host);
        param_read(d, p, slice, host);
        for (int64_t k = 0; k < n; k++)
            cr_assert_eq(host[k], (float)(1000000 * slice + k), "%s, slice %d, number %ld", p->name,
                         slice, (long)k);
        free(host);
    }
    param_close(p, false);
}

static void keep_on_rank(Comm *c, void *ud)
{
    Kept *kept = ud;
    Device d;
    open_device(&d, DT_F32);
    Param fused, base, norm;
    param_init(&fused, "fused", DT_F32, ROWS, WIDE, 0); /* dense */
    param_set_slices(&fused, 2, (const char *const[]){"a", "b"}, (const int64_t[]){11, ROWS - 11});
    param_init(&base, "base", DT_F32, ROWS, COLS, 0); /* with room for adapters */
    param_set_room(&base, 3, PITCH - COLS);
    param_init(&norm, "norm", DT_F32, ROWS, 0, 0);
    ParamSet set = {0};
    Param *all[] = {&fused, &base, &norm};
    for (int i = 0; i < 3; i++)
        paramset_add(&set, all[i]);
    param_set_trained(&fused, true);
    param_set_trained(&norm, true);
    ShardSet s;
    ShardOpts opts = {.zero = kept->zero};
    shards_init(&s, &d, c, &set, &opts);
    pthread_mutex_lock(&kept->lock);
    write_pieces(&d, &fused, 0, kept->times[0]);
    write_pieces(&d, &fused, 1, kept->times[1]);
    write_pieces(&d, &norm, 0, kept->times[1] + ROWS * WIDE - ROWS);
    write_pieces(&d, &base, 0, kept->times[2]);
    pthread_mutex_unlock(&kept->lock);
    shards_updated(&s);
    for (int i = 0; i < 3; i++)
        expect_numbers(&d, all[i]);
    shards_end_pass(&s);
    shards_clear(&s);
    for (int i = 0; i < 3; i++)
        param_clear(all[i]);
    paramset_clear(&set);
    device_close(&d);
}

/* Every number of what is split is kept, and so read from a file, by one rank; what is not split by all. */
Test(shard, ranks_read_what_they_keep, .timeout = 60)
{
    for (int zero = 0; zero <= 3; zero++)
        for (int n = 1; n <= 7; n++) {
            static Kept kept;
            kept = (Kept){.lock = PTHREAD_MUTEX_INITIALIZER, .zero = zero};
            ranks_run(n, keep_on_rank, &kept);
            int trained = zero > 0 ? 1 : n, frozen = zero == 3 ? 1 : n;
            for (int k = 0; k < 11 * WIDE; k++)
                cr_assert_eq(kept.times[0][k], trained, "stage %d, %d ranks, a %d", zero, n, k);
            for (int k = 0; k < (ROWS - 11) * WIDE; k++)
                cr_assert_eq(kept.times[1][k], trained, "stage %d, %d ranks, b %d", zero, n, k);
            for (int k = ROWS * WIDE - ROWS; k < ROWS * WIDE; k++)
                cr_assert_eq(kept.times[1][k], trained, "stage %d, %d ranks, norm", zero, n);
            for (int k = 0; k < ROWS * COLS; k++)
                cr_assert_eq(kept.times[2][k], frozen, "stage %d, %d ranks, base %d", zero, n, k);
        }
}
