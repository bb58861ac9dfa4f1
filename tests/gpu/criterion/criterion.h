/* Stands in for Criterion where tests run in one process and one CUDA context: under compute-sanitizer, and on a GPU
 * host that has no Criterion.  The part of its interface that the tests of kernels, ops and models use; a failed
 * assertion leaves its test by longjmp, so what the test held stays taken until the process ends. */
#pragma once

#include <stdbool.h>
#include <string.h>

typedef struct PlainTest {
    const char *suite, *name;
    void (*run)(void);
    struct PlainTest *next;
} PlainTest;

void plain_register(PlainTest *t);
/* message: a format behind a leading space, for the arguments that follow. */
void plain_check(bool ok, bool fatal, const char *file, int line, const char *what,
                 const char *message, ...);
void plain_skip(const char *message, ...);

/* What follows the name (.timeout and the like) is Criterion's alone. */
#define Test(suite_, name_, ...)                                                                   \
    static void suite_##_##name_(void);                                                            \
    __attribute__((constructor)) static void suite_##_##name_##_register(void)                     \
    {                                                                                              \
        static PlainTest test = {#suite_, #name_, suite_##_##name_, NULL};                         \
        plain_register(&test);                                                                     \
    }                                                                                              \
    static void suite_##_##name_(void)

#define PLAIN(ok, fatal, what, ...)                                                                \
    plain_check((ok), fatal, __FILE__, __LINE__, what, " " __VA_ARGS__)
#define PLAIN_NEAR(a, b, e) ((a) - (b) <= (e) && (b) - (a) <= (e))

#define cr_skip_test(...) plain_skip(" " __VA_ARGS__)

#define cr_assert(ok, ...)             PLAIN(ok, true, #ok, __VA_ARGS__)
#define cr_assert_eq(a, b, ...)        PLAIN((a) == (b), true, #a " == " #b, __VA_ARGS__)
#define cr_assert_neq(a, b, ...)       PLAIN((a) != (b), true, #a " != " #b, __VA_ARGS__)
#define cr_assert_gt(a, b, ...)        PLAIN((a) > (b), true, #a " > " #b, __VA_ARGS__)
#define cr_assert_leq(a, b, ...)       PLAIN((a) <= (b), true, #a " <= " #b, __VA_ARGS__)
#define cr_assert_null(p, ...)         PLAIN((p) == NULL, true, #p " is NULL", __VA_ARGS__)
#define cr_assert_not_null(p, ...)     PLAIN((p) != NULL, true, #p " is not NULL", __VA_ARGS__)
#define cr_assert_str_eq(a, b, ...)    PLAIN(strcmp(a, b) == 0, true, #a " == " #b, __VA_ARGS__)
#define cr_assert_arr_eq(a, b, n, ...) PLAIN(memcmp(a, b, n) == 0, true, #a " == " #b, __VA_ARGS__)

#define cr_expect(ok, ...)             PLAIN(ok, false, #ok, __VA_ARGS__)
#define cr_expect_eq(a, b, ...)        PLAIN((a) == (b), false, #a " == " #b, __VA_ARGS__)
#define cr_expect_neq(a, b, ...)       PLAIN((a) != (b), false, #a " != " #b, __VA_ARGS__)
#define cr_expect_lt(a, b, ...)        PLAIN((a) < (b), false, #a " < " #b, __VA_ARGS__)
#define cr_expect_leq(a, b, ...)       PLAIN((a) <= (b), false, #a " <= " #b, __VA_ARGS__)
#define cr_expect_gt(a, b, ...)        PLAIN((a) > (b), false, #a " > " #b, __VA_ARGS__)
#define cr_expect_geq(a, b, ...)       PLAIN((a) >= (b), false, #a " >= " #b, __VA_ARGS__)
#define cr_expect_null(p, ...)         PLAIN((p) == NULL, false, #p " is NULL", __VA_ARGS__)
#define cr_expect_not_null(p, ...)     PLAIN((p) != NULL, false, #p " is not NULL", __VA_ARGS__)
#define cr_expect_str_eq(a, b, ...)    PLAIN(strcmp(a, b) == 0, false, #a " == " #b, __VA_ARGS__)
#define cr_expect_arr_eq(a, b, n, ...) PLAIN(memcmp(a, b, n) == 0, false, #a " == " #b, __VA_ARGS__)
#define cr_expect_arr_neq(a, b, n, ...)                                                            \
    PLAIN(memcmp(a, b, n) != 0, false, #a " != " #b, __VA_ARGS__)
#define cr_expect_float_eq(a, b, e, ...)                                                           \
    PLAIN(PLAIN_NEAR(a, b, e), false, #a " == " #b, __VA_ARGS__)
