/* Against the compiler's own half precision, over every half and many floats. */
#include "tensor/convert.h"

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

static float from_bits(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

#if defined(__FLT16_MANT_DIG__) && !defined(__clang__)
__extension__ typedef _Float16 Half;

Test(convert, every_half_reads_as_the_compiler_reads_it)
{
    for (uint32_t h = 0; h < 0x10000; h++) {
        uint16_t bits = (uint16_t)h;
        Half want;
        memcpy(&want, &bits, sizeof want);
        float got = f16_to_f32(bits);
        if (isnan((float)want))
            cr_assert(isnan(got), "half %04x", h);
        else
            cr_assert_eq(got, (float)want, "half %04x", h);
    }
}

Test(convert, floats_round_to_half_as_the_compiler_rounds)
{
    for (uint64_t i = 0; i < 1u << 22; i++) {
        float f = from_bits((uint32_t)(i * 1021u));
        if (isnan(f)) continue;
        Half want = (Half)f;
        uint16_t bits;
        memcpy(&bits, &want, sizeof bits);
        cr_assert_eq(f16_from_f32(f), bits, "%a", (double)f);
    }
}
#endif

Test(convert, bf16_rounds_to_the_nearest_and_ties_to_even)
{
    for (uint64_t i = 0; i < 1u << 22; i++) {
        float f = from_bits((uint32_t)(i * 1021u));
        uint16_t got = bf16_from_f32(f);
        if (isnan(f)) {
            cr_assert(isnan(bf16_to_f32(got)));
            continue;
        }
        uint32_t u;
        memcpy(&u, &f, sizeof u);
        uint16_t down = (uint16_t)(u >> 16), up = (uint16_t)(down + 1);
        uint32_t rest = u & 0xffffu;
        uint16_t want = rest > 0x8000u ? up : rest < 0x8000u ? down : down & 1u ? up : down;
        cr_assert_eq(got, want, "%a", (double)f);
    }
    cr_assert(isnan(bf16_to_f32(bf16_from_f32(from_bits(0x7f800001)))),
              "a NaN must not become infinite");
}

/* Tensors of a mapped file begin anywhere; the sanitizers watch. */
Test(convert, rows_need_not_be_aligned)
{
    static const DType types[] = {DT_F32, DT_BF16, DT_F16};
    static const float row[] = {0.5f, -2.0f, 1.75f};
    for (int t = 0; t < 3; t++)
        for (size_t shift = 0; shift < 4; shift++) {
            unsigned char stored[16];
            float back[3];
            convert_from_f32(stored + shift, types[t], row, 3);
            convert_to_f32(back, stored + shift, types[t], 3);
            cr_assert_eq(memcmp(row, back, sizeof row), 0, "type %d, shift %zu", t, shift);
        }
}

/* Together the halves are the float to the bit, infinities and the smallest included; alone the upper one is the nearest
 * bf16. */
Test(convert, a_float_is_its_bf16_and_the_rest)
{
    for (uint64_t i = 0; i < 1u << 23; i++) {
        float f = from_bits((uint32_t)(i * 509u)), back;
        uint16_t hi;
        int16_t low;
        convert_split(&hi, &low, &f, 1);
        convert_join(&back, &hi, &low, 1);
        if (isnan(f)) {
            cr_assert(isnan(back) && isnan(bf16_to_f32(hi)), "%a", (double)f);
            continue;
        }
        cr_assert_eq(memcmp(&back, &f, sizeof f), 0, "%a became %a", (double)f, (double)back);
        uint32_t bits;
        memcpy(&bits, &f, sizeof bits);
        bool halfway = (bits & 0xffffu) == 0x8000u; /* there, and only there, ties go another way */
        if (!halfway) cr_assert_eq(hi, bf16_from_f32(f), "%a", (double)f);
        if (halfway) cr_assert_eq(hi, (bits >> 16) + 1, "%a", (double)f);
    }
}
