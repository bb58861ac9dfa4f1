/* A device whose memory ends: the report names what did not fit, what is there by category, and what to set. */
#include "base/str.h"
#include "kernels/kernels.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* An exit code that abort() does not give, once everything is there. */
static void expect_report(void *ud, const char *message)
{
    static const char *const parts[] = {
        "tensor/device.c:",
        "out of memory on cpu: 1048576 bytes for activations do not fit",
        "largest free block",
        "\n  memory, MiB",
        "\n  weights",
        "\n  gradients",
        "\n  optimizer",
        "\n  total",
        "\ntry a smaller --heap or patience"};
    (void)ud;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (!strstr(message, parts[i])) {
            fprintf(stderr, "no '%s' in:\n%s\n", parts[i], message);
            _Exit(1);
        }
    const char *weights = strstr(message, "weights");
    _Exit(strtod(weights + strlen("weights"), NULL) == 0.5 ? 77 : 1);
}

static Status fails(Device *d, const DeviceOpts *opts, Err *err)
{
    d->impl = d; /* what a backend has freed again */
    return err_set(err, E_INPUT, "no device here");
}

Test(memory, what_did_not_open_is_closed)
{
    Backend none = *backend_find("cpu");
    none.open = fails;
    Device d;
    Err err = {0};
    cr_assert_eq(device_open(&d, &none, &(DeviceOpts){0}, DT_F32, &err), E_INPUT);
    cr_expect_null(d.backend);
    cr_expect_null(d.impl);
    device_close(&d);
}

Test(memory, out_of_memory_tells_the_table_and_what_to_set, .exit_code = 77)
{
    Device d;
    Err err = {0};
    DeviceOpts opts = {.threads = 1, .region_bytes = 1 << 20};
    cr_assert_eq(device_open(&d, backend_find("cpu"), &opts, DT_F32, &err), OK, "%s", err.line);
    device_when_full(&d, "a smaller --heap or patience");
    storage_new(&d, 1 << 19, MEM_WEIGHT);
    panic_set_hook(expect_report, NULL);
    storage_new(&d, 1 << 20, MEM_ACTIVATION);
}

Test(memory, out_of_memory_is_exit_code_1, .exit_code = 1)
{
    Device d;
    Err err = {0};
    DeviceOpts opts = {.threads = 1, .region_bytes = 1 << 20};
    cr_assert_eq(device_open(&d, backend_find("cpu"), &opts, DT_F32, &err), OK, "%s", err.line);
    storage_new(&d, (size_t)1 << 30, MEM_ACTIVATION);
}
