/* Layout of shards, what shares storage with what, and a run of one rank's collectives. */
#include "autograd/tape.h"
#include "dist/shard.h"

#include <criterion/criterion.h>

static void open_device(Device *d)
{
    Err err = {0};
    DeviceOpts opts = {.threads = 1, .region_bytes = 1 << 20};
    cr_assert_eq(device_open(d, backend_find("cpu"), &opts, DT_F32, &err), OK, "%s", err.line);
}

Test(shard, arrays_hold_the_trained_parameters_by_unit)
{
    Device d;
    open_device(&d);
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
    shards_init(&s, &d, &self, &set);
    cr_assert_eq(s.n, 2); /* nothing of unit 0 is trained */
    cr_assert_null(embed.t.grad);
    cr_assert_not_null(embed.t.storage);
    ParamShard *one = &s.items[0];
    cr_assert_eq(one->n_ranges, 4);
    cr_assert_eq(one->numel, 128); /* 21 and 7, each rounded up to 64 */
    int64_t offsets[] = {0, 12, 15, 64}, sizes[] = {12, 3, 6, 7};
    for (int i = 0; i < 4; i++) {
        cr_assert_eq(one->ranges[i].offset, offsets[i], "range %d", i);
        cr_assert_eq(one->ranges[i].numel, sizes[i], "range %d", i);
    }
    cr_assert(one->ranges[1].decay);
    cr_assert(!one->ranges[3].decay); /* a vector */
    cr_assert_str_eq(shard_range_name(&one->ranges[2]), "v");
    cr_assert_eq(shards_numel(&s), 21 + 7 + 3);

    /* the parameter is the master array, its gradient the gradient array */
    cr_assert_eq(tensor_data(&qkv.t), tensor_data(&one->master));
    cr_assert_eq((char *)tensor_data(&bias.t), (char *)tensor_data(&one->master) + 64 * 4);
    cr_assert_eq((char *)tensor_data(bias.t.grad), (char *)tensor_data(&one->grad) + 64 * 4);
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
    tensor_zero(&d, &one->master);
    tensor_zero(&d, &s.items[1].master);
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

Test(comm, one_rank_has_the_sum_and_the_whole)
{
    Device d;
    open_device(&d);
    Comm c = comm_self();
    int64_t n = 5;
    Tensor a = tensor_alloc(&d, DT_F32, 1, &n, MEM_COMM);
    Tensor b = tensor_alloc(&d, DT_F32, 1, &n, MEM_COMM);
    float x[5] = {1, 2, 3, 4, 5}, y[5];
    tensor_write(&d, &a, x);
    comm_all_reduce(&c, &d, &a, COMM_SUM);
    comm_all_gather(&c, &d, &b, &a);
    comm_reduce_scatter(&c, &d, &a, &b);
    comm_broadcast(&c, &d, &a, 0);
    comm_barrier(&c);
    tensor_read(&d, &a, y);
    for (int i = 0; i < 5; i++)
        cr_assert_eq(y[i], x[i]);
    tensor_clear(&a);
    tensor_clear(&b);
    device_close(&d);
}
