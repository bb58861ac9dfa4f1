/* The tests of kernels, ops and models in one program without Criterion, for a GPU host:
 *
 *   LORAC_TEST_BACKEND=cuda gpu_tests SUITE[.TEST]...   runs the suites, or single tests
 *   gpu_tests --list                                   the suites' names
 *
 * Exit code 1 when a test fails, 77 when all were skipped, 2 for a suite that is not there. */
#include "tests/gpu/plain.h"
#include "tests/support/test_device.h"

#include <stdio.h>
#include <string.h>

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "--list") == 0) {
        plain_list();
        return 0;
    }
    PlainCounts all = {0};
    for (int i = 1; i < argc; i++) {
        PlainCounts n = plain_run(argv[i]);
        if (n.passed + n.failed + n.skipped == 0) {
            fprintf(stderr, "gpu_tests: there is no suite %s; --list names them\n", argv[i]);
            return 2;
        }
        all.passed += n.passed;
        all.failed += n.failed;
        all.skipped += n.skipped;
    }
    printf("%d passed, %d failed, %d skipped on %s\n", all.passed, all.failed, all.skipped,
           test_backend()); /* a suite that was forgotten on the CPU shows */
    return all.failed ? 1 : all.passed ? 0 : 77;
}
