#include "tests/support/groups.h"

#include "tensor/convert.h"

#include <string.h>

static int below(uint64_t key, uint64_t i, int n)
{
    return (int)rng_below(key, i, (uint64_t)n);
}

void groups_draw(uint8_t *packed, const QuantPart *q, uint64_t key)
{
    const int n_codes = q->type == QUANT_GROUP4 ? 16 : 256;
    const int64_t n = quant_n_scales(q);
    for (size_t i = 0; i < quant_codes_bytes(q); i++)
        packed[q->codes + i] = (uint8_t)below(key, i, 256);
    for (int64_t i = 0; i < q->rows * n; i++) {
        const uint16_t scale =
            f16_from_f32(0.2f * (float)(1 + below(key + 1, (uint64_t)i, 8)) / (float)n_codes);
        memcpy(packed + q->scales + 2 * i, &scale, sizeof scale);
        packed[q->zeros + (size_t)i] =
            (uint8_t)(n_codes / 4 + below(key + 2, (uint64_t)i, n_codes / 2));
    }
    for (int64_t c = 0; c < q->cols && q->ordered; c++) {
        const int32_t group = below(key + 3, (uint64_t)c, (int)n);
        memcpy(packed + q->groups + 4 * c, &group, sizeof group);
    }
}
