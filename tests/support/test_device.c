#include "tests/support/test_device.h"

#include <stdlib.h>
#include <string.h>

const char *test_backend(void)
{
    const char *name = getenv("LORAC_TEST_BACKEND");
    return name ? name : "cpu";
}

DType test_precision(void)
{
    const char *name = getenv("LORAC_TEST_PRECISION");
    if (!name || strcmp(name, "fp32") == 0) return DT_F32;
    if (strcmp(name, "bf16") != 0) panic("LORAC_TEST_PRECISION: fp32 or bf16, is %s", name);
    return DT_BF16;
}

DeviceOpts test_device_opts(size_t region_bytes, int threads)
{
    /* what times candidates takes minutes under a checker */
    bool tracked = getenv("LORAC_TEST_TRACKED") != NULL;
    return (DeviceOpts){.region_bytes = region_bytes,
                        .threads = threads,
                        .tracked = tracked,
                        .deterministic = tracked};
}

void test_device_open(Device *d, size_t region_bytes, int threads)
{
    const Backend *backend = backend_find(test_backend());
    if (!backend) panic("no backend %s, only %s", test_backend(), backend_names());
    Err err = {0};
    DeviceOpts opts = test_device_opts(region_bytes, threads);
    if (device_open(d, backend, &opts, test_precision(), &err) != OK) panic("%s", err.line);
}

void test_device_expect_flash(const Device *d)
{
    DeviceInfo info;
    d->backend->info(d, &info);
    if (info.n_flash == 0 || info.n_plain > 0)
        panic("attention: %lld calls went to the library's engine and %lld to our own kernels",
              (long long)info.n_flash, (long long)info.n_plain);
}
