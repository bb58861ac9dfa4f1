/* Checksums: CRC-32C (Castagnoli, as TensorBoard and our checkpoints use it) and a fast 64-bit hash
 * for cache keys and state fingerprints.  Neither is cryptographic. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* Start with crc 0; feed the result back to go on.  crc32c(0, "123456789", 9) == 0xE3069283. */
uint32_t crc32c(uint32_t crc, const void *data, size_t len);
/* What a part of some text adds to the text's sum when n bytes follow it: crc(A B C) = shift(crc(A), |B C|) ^ shift(crc(B), |C|) ^
 * crc(C), so that parts can be summed up by different threads, in any order (M. Adler, zlib's crc32_combine). */
uint32_t crc32c_shift(uint32_t crc, uint64_t n);

/* The same for the same bytes on every machine and in every version of lorac. */
uint64_t hash64(const void *data, size_t len, uint64_t seed);
