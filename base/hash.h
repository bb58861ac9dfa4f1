/* Checksums: CRC-32C (Castagnoli, as TensorBoard and our checkpoints use it) and a fast 64-bit hash
 * for cache keys and state fingerprints.  Neither is cryptographic. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* Start with crc 0; feed the result back to go on.  crc32c(0, "123456789", 9) == 0xE3069283. */
uint32_t crc32c(uint32_t crc, const void *data, size_t len);

/* The same for the same bytes on every machine and in every version of lorac. */
uint64_t hash64(const void *data, size_t len, uint64_t seed);
