/* Checksums against published vectors. */
#include "base/hash.h"

#include <criterion/criterion.h>
#include <string.h>

/* RFC 3720, B.4, and the catalogue's check value. */
Test(hash, crc32c)
{
    uint8_t buf[32];
    cr_assert_eq(crc32c(0, "123456789", 9), 0xE3069283u);
    cr_assert_eq(crc32c(0, "", 0), 0u);
    memset(buf, 0, 32);
    cr_assert_eq(crc32c(0, buf, 32), 0x8A9136AAu);
    memset(buf, 0xFF, 32);
    cr_assert_eq(crc32c(0, buf, 32), 0x62A8AB43u);
    for (int i = 0; i < 32; i++)
        buf[i] = (uint8_t)i;
    cr_assert_eq(crc32c(0, buf, 32), 0x46DD794Eu);
}

Test(hash, crc32c_goes_on)
{
    uint8_t buf[300];
    for (int i = 0; i < 300; i++)
        buf[i] = (uint8_t)(i * 7 + i / 3);
    uint32_t whole = crc32c(0, buf, 300);
    for (size_t cut = 0; cut <= 300; cut++)
        cr_assert_eq(crc32c(crc32c(0, buf, cut), buf + cut, 300 - cut), whole, "cut %zu", cut);
}

/* Three parts of some text, each by itself. */
Test(hash, crc32c_of_parts)
{
    uint8_t buf[300];
    for (int i = 0; i < 300; i++)
        buf[i] = (uint8_t)(i * 7 + i / 3);
    uint32_t whole = crc32c(0, buf, 300);
    for (size_t a = 0; a <= 300; a += 13)
        for (size_t b = a; b <= 300; b += 29) {
            uint32_t sum = crc32c_shift(crc32c(0, buf + a, b - a), 300 - b);
            sum ^= crc32c(0, buf + b, 300 - b) ^ crc32c_shift(crc32c(0, buf, a), 300 - a);
            cr_assert_eq(sum, whole, "cut at %zu and %zu", a, b);
        }
    /* the polynomial is (x + 1) times a primitive one of degree 31: x^(2^31 - 1) is 1 */
    cr_assert_eq(crc32c_shift(whole, (uint64_t)INT32_MAX), whole);
}

/* XXH64's own sanity data (xxhash's cli/xsum_sanity_check.c): bytes of a generator, seeds 0 and PRIME32. */
Test(hash, hash64)
{
    uint8_t buf[2048];
    uint64_t byte_gen = 2654435761u;
    for (size_t i = 0; i < sizeof buf; i++) {
        buf[i] = (uint8_t)(byte_gen >> 56);
        byte_gen *= 11400714785074694797ull;
    }
    static const struct {
        size_t n;
        uint64_t seed, want;
    } cases[] = {
        {0, 0, 0xEF46DB3751D8E999ull},
        {0, 2654435761u, 0xAC75FDA2929B17EFull},
        {1, 0, 0xE934A84ADB052768ull},
        {1, 2654435761u, 0x5014607643A9B4C3ull},
        {4, 0, 0x9136A0DCA57457EEull},
        {14, 0, 0x8282DCC4994E35C8ull},
        {14, 2654435761u, 0xC3BD6BF63DEB6DF0ull},
        {222, 0, 0xB641AE8CB691C174ull},
        {222, 2654435761u, 0x20CB8AB7AE10C14Aull},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        cr_expect_eq(hash64(buf, cases[i].n, cases[i].seed), cases[i].want, "n %zu", cases[i].n);
    cr_assert_eq(hash64("abc", 3, 0), 0x44BC2CF5AD770999ull);
}
