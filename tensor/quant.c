/* Tables and layout of quantised matrices. */
#include "tensor/quant.h"

#include "tensor/region.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *quant_type_name(QuantType t)
{
    static const char *const names[QUANT_N] = {
        [QUANT_NONE] = "none",    [QUANT_NF4] = "nf4", [QUANT_FP4] = "fp4",
        [QUANT_INT8] = "int8",    [QUANT_FP8] = "fp8", [QUANT_GROUP4] = "group4",
        [QUANT_GROUP8] = "group8"};
    return names[t];
}

bool quant_type_find(QuantType *out, const char *name)
{
    for (int t = QUANT_NF4; t <= QUANT_FP8; t++)
        if (strcmp(name, quant_type_name((QuantType)t)) == 0) {
            *out = (QuantType)t;
            return true;
        }
    return false;
}

bool quant_block_is_known(int64_t block)
{
    return block >= QUANT_LEAST_BLOCK && block <= QUANT_MOST_BLOCK && (block & (block - 1)) == 0;
}

/* ---- layout ------------------------------------------------------------------------------------- */

static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

int64_t quant_numel(const QuantPart *q)
{
    return q->rows * q->cols;
}

int64_t quant_n_scales(const QuantPart *q)
{
    if (quant_is_4bit(q->type)) return ceil_div(quant_numel(q), q->block);
    return quant_is_group(q->type) ? ceil_div(q->cols, q->block) : q->rows;
}

size_t quant_codes_bytes(const QuantPart *q)
{
    if (quant_is_4bit(q->type)) return (size_t)ceil_div(quant_numel(q), 2);
    if (q->type == QUANT_GROUP4) return (size_t)(q->rows * ceil_div(q->cols, 2));
    return (size_t)quant_numel(q);
}

size_t quant_scales_bytes(const QuantPart *q)
{
    size_t n = (size_t)quant_n_scales(q);
    if (quant_is_group(q->type)) return (size_t)q->rows * n * 2;
    return q->nested ? n : n * sizeof(float);
}

size_t quant_nested_bytes(const QuantPart *q)
{
    return q->nested ? (size_t)ceil_div(quant_n_scales(q), QUANT_NESTED_BLOCK) * sizeof(float) : 0;
}

size_t quant_tables_bytes(const QuantPart *q)
{
    if (!quant_is_4bit(q->type)) return 0;
    return (q->nested ? 16 + 256 + 1 : 16) * sizeof(float);
}

size_t quant_zeros_bytes(const QuantPart *q)
{
    return quant_is_group(q->type) ? (size_t)(q->rows * quant_n_scales(q)) : 0;
}

size_t quant_groups_bytes(const QuantPart *q)
{
    return q->ordered ? (size_t)q->cols * sizeof(int32_t) : 0;
}

static size_t piece(size_t *used, size_t bytes)
{
    size_t at = *used;
    *used += (bytes + REGION_ALIGN - 1) / REGION_ALIGN * REGION_ALIGN;
    return at;
}

void quant_place(QuantPart *q, size_t *used)
{
    q->codes = piece(used, quant_codes_bytes(q));
    q->scales = piece(used, quant_scales_bytes(q));
    q->nested_scales = piece(used, quant_nested_bytes(q));
    q->tables = piece(used, quant_tables_bytes(q));
    q->zeros = piece(used, quant_zeros_bytes(q));
    q->groups = piece(used, quant_groups_bytes(q));
    q->sums = piece(used, 2 * sizeof(float));
}

double quant_bits(const QuantPart *q)
{
    size_t bytes = quant_codes_bytes(q) + quant_scales_bytes(q) + quant_nested_bytes(q) +
                   quant_tables_bytes(q) + quant_zeros_bytes(q) + quant_groups_bytes(q);
    return 8 * (double)bytes / (double)quant_numel(q);
}

size_t quant_encode_scratch(const QuantPart *q)
{
    return q->nested ? (size_t)quant_n_scales(q) * sizeof(float) : 0;
}

/* ---- tables ------------------------------------------------------------------------------------- */

const float *quant_table(QuantType t)
{
    static const float nf4[16] = {
        -1.0f,
        -0.6961928009986877f,
        -0.5250730514526367f,
        -0.39491748809814453f,
        -0.28444138169288635f,
        -0.18477343022823334f,
        -0.09105003625154495f,
        0.0f,
        0.07958029955625534f,
        0.16093020141124725f,
        0.24611230194568634f,
        0.33791524171829224f,
        0.44070982933044434f,
        0.5626170039176941f,
        0.7229568362236023f,
        1.0f,
    };
    /* twelfths of 0, 1/16, 8, 12, 4, 6, 2, 3; then the same below 0 */
    static const float fp4[16] = {
        0.0f, 0.0625f / 12,  8.0f / 12,  1.0f,  4.0f / 12,  0.5f,  2.0f / 12,  0.25f,
        0.0f, -0.0625f / 12, -8.0f / 12, -1.0f, -4.0f / 12, -0.5f, -2.0f / 12, -0.25f,
    };
    ASSERT(quant_is_4bit(t), "%s has no table", quant_type_name(t));
    return t == QUANT_NF4 ? nf4 : fp4;
}

static int ascending(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* torch.linspace(0.1, 1, n) in float32: from both ends, each with one rounding. */
static float linspace(int i, int n)
{
    float step = (1.0f - 0.1f) / (float)(n - 1);
    if (i < n / 2) return fmaf(step, (float)i, 0.1f);
    return fmaf(-step, (float)(n - 1 - i), 1.0f);
}

void quant_dynamic_map(float map[256], bool is_signed)
{
    static const float powers[7] = {1e-6f, 1e-5f, 1e-4f, 1e-3f, 1e-2f, 1e-1f, 1.0f};
    int n = 0;
    for (int e = 0; e < 7; e++) {
        int cells = 1 << (is_signed ? e : e + 1);
        for (int i = 0; i < cells; i++) {
            float middle = (linspace(i, cells + 1) + linspace(i + 1, cells + 1)) / 2;
            map[n++] = powers[e] * middle;
            if (is_signed) map[n++] = -powers[e] * middle;
        }
    }
    map[n++] = 0;
    map[n++] = 1;
    ASSERT(n == 256, "the dynamic map has %d values", n);
    qsort(map, 256, sizeof *map, ascending);
}

void quant_fill_tables(float *out, const QuantPart *q)
{
    memcpy(out, quant_table(q->type), 16 * sizeof *out);
    if (!q->nested) return;
    quant_dynamic_map(out + 16, true);
    out[16 + 256] = 0;
}
