/* The cases of comm_cases.h on one rank, and on threads: host memory, or all on one GPU under
 * LORAC_TEST_BACKEND=cuda. */
#include "kernels/kernels.h"
#include "tests/dist/comm_cases.h"
#include "tests/support/ranks.h"

#include <criterion/criterion.h>
#include <stdlib.h>

static int run_cases(Comm *c)
{
    const char *name = getenv("LORAC_TEST_BACKEND");
    DeviceOpts opts = {.threads = 1, .region_bytes = (size_t)128 << 20};
    Device d;
    Err err = {0};
    DType compute = name && name[0] == 'c' && name[1] == 'u' ? DT_BF16 : DT_F32;
    cr_assert_eq(device_open(&d, backend_find(name ? name : "cpu"), &opts, compute, &err), OK, "%s",
                 err.line);
    int bad = comm_cases(c, &d);
    device_close(&d);
    return bad;
}

Test(comm, self)
{
    Comm c = comm_self();
    cr_expect_eq(run_cases(&c), 0);
}

static void on_rank(Comm *c, void *ud)
{
    int *bad = ud;
    bad[c->rank] = run_cases(c);
}

Test(comm, threads, .timeout = 100)
{
    for (int n = 1; n <= 4; n++) {
        int bad[4] = {0};
        ranks_run(n, on_rank, bad);
        for (int i = 0; i < n; i++)
            cr_expect_eq(bad[i], 0, "rank %d of %d", i, n);
    }
}
