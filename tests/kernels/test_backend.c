/* Finding and opening backends. */
#include "kernels/kernels.h"

#include <criterion/criterion.h>
#include <signal.h>
#include <string.h>

Test(backend, is_found_by_name)
{
    cr_assert_str_eq(backend_find("cpu")->name, "cpu");
    cr_assert_null(backend_find("tpu"));
    cr_assert_null(backend_find(""));
    cr_assert_not_null(strstr(backend_names(), "cpu"));
}

Test(backend, a_missing_kernel_is_fatal, .signal = SIGABRT)
{
    Kernels k = *backend_find("cpu")->kernels;
    k.swiglu_bwd = NULL;
    kernels_check("broken", &k);
}

Test(backend, reserves_what_is_asked_for)
{
    Device d;
    Err err = {0};
    DeviceOpts opts = {.region_bytes = (size_t)1 << 20, .threads = 3};
    cr_assert_eq(device_open(&d, backend_find("cpu"), &opts, DT_F32, &err), OK);
    cr_expect_eq(d.region_bytes, opts.region_bytes);
    cr_expect_eq(pool_size(d.pool), 3);
    memset(d.region_data, 0, 0);
    device_close(&d);
}

Test(backend, has_a_default)
{
    Device d;
    Err err = {0};
    cr_assert_eq(device_open(&d, backend_find("cpu"), &(DeviceOpts){0}, DT_F32, &err), OK);
    cr_expect_geq(d.region_bytes, (size_t)64 << 20);
    device_close(&d);
}

Test(backend, says_when_memory_cannot_be_had)
{
    Device d;
    Err err = {0};
    DeviceOpts opts = {.region_bytes = (size_t)1 << 60};
    cr_assert_eq(device_open(&d, backend_find("cpu"), &opts, DT_F32, &err), E_FAILED);
    cr_expect_not_null(strstr(err.line, "cannot reserve"));
}
