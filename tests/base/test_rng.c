/* Random draws: the cipher against its authors' vectors, the distributions against their moments. */
#include "base/rng.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

/* Known answers of Random123 (kat_vectors, philox4x32 10). */
Test(rng, philox_known_answers)
{
    static const struct {
        uint64_t key, hi, lo;
        uint32_t want[4];
    } cases[] = {
        {0, 0, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {~0ull, ~0ull, ~0ull, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {0x299f31d0a4093822ull,
         0x0370734413198a2eull,
         0x85a308d3243f6a88ull,
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (int c = 0; c < 3; c++) {
        Rng4 r = philox(cases[c].key, cases[c].hi, cases[c].lo);
        for (int i = 0; i < 4; i++)
            cr_expect_eq(r.v[i], cases[c].want[i], "case %d word %d: %08x", c, i, r.v[i]);
    }
}

Test(rng, moments)
{
    enum { N = 100000 };
    double sum = 0, sum2 = 0, normal = 0, normal2 = 0, normal4 = 0;
    for (uint64_t i = 0; i < N; i++) {
        double u = rng_uniform(7, i), z = rng_normal(8, i);
        cr_assert(u >= 0 && u < 1 && isfinite(z));
        sum += u, sum2 += u * u;
        normal += z, normal2 += z * z, normal4 += z * z * z * z;
    }
    /* five standard deviations of each estimate */
    cr_expect_float_eq(sum / N, 0.5, 5 * sqrt(1.0 / 12 / N));
    cr_expect_float_eq(sum2 / N, 1.0 / 3, 5 * sqrt(4.0 / 45 / N));
    cr_expect_float_eq(normal / N, 0, 5 / sqrt(N));
    cr_expect_float_eq(normal2 / N, 1, 5 * sqrt(2.0 / N));
    cr_expect_float_eq(normal4 / N, 3, 5 * sqrt(96.0 / N));
    cr_assert(rng_unit(0) == 0.0f && rng_unit(~0u) < 1.0f);
}

Test(rng, below_is_even)
{
    enum { N = 70000, SIDES = 7 };
    int count[SIDES] = {0};
    for (uint64_t i = 0; i < N; i++) {
        uint64_t v = rng_below(3, i, SIDES);
        cr_assert_lt(v, SIDES);
        count[v]++;
    }
    double chi2 = 0;
    for (int s = 0; s < SIDES; s++)
        chi2 += pow(count[s] - N / SIDES, 2) / (N / SIDES);
    cr_expect_lt(chi2, 22.5, "chi2 %g of 6 degrees, p < 0.001", chi2);
    cr_assert_eq(rng_below(3, 1, 1), 0);
}

Test(rng, permutation)
{
    enum { N = 1000 };
    int64_t a[N], b[N];
    bool seen[N] = {0};
    rng_permutation(5, a, N);
    rng_permutation(5, b, N);
    int fixed = 0;
    for (int i = 0; i < N; i++) {
        cr_assert(a[i] >= 0 && a[i] < N && !seen[a[i]]);
        cr_assert_eq(a[i], b[i]);
        seen[a[i]] = true;
        fixed += a[i] == i;
    }
    cr_expect_lt(fixed, 8, "%d fixed points, 1 expected", fixed);
    rng_permutation(6, b, N);
    int same = 0;
    for (int i = 0; i < N; i++)
        same += a[i] == b[i];
    cr_expect_lt(same, 8);
    rng_permutation(5, a, 0);

    /* every order of three comes about as often */
    int count[27] = {0};
    for (uint64_t key = 0; key < 6000; key++) {
        rng_permutation(key, a, 3);
        count[a[0] * 9 + a[1] * 3 + a[2]]++;
    }
    static const int orders[] = {5, 7, 11, 15, 19, 21};
    for (int i = 0; i < 6; i++)
        cr_expect(abs(count[orders[i]] - 1000) < 150, "order %d: %d", i, count[orders[i]]);
}

Test(rng, mix_separates_keys)
{
    uint64_t h = 0;
    for (uint64_t a = 0; a < 100; a++)
        for (uint64_t b = 0; b < 100; b++) {
            cr_assert(a == b || rng_mix(a, b) != rng_mix(b, a));
            h ^= rng_mix(a, b);
        }
    cr_assert_neq(h, 0);
}
