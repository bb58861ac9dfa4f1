/* Encoding, decoding and small products of quantised matrices. */
#include "kernels/cpu/cpu.h"

#include "tensor/convert.h"

#include <math.h>

static uint8_t *packed_at(const Tensor *packed, size_t offset)
{
    ASSERT(packed->dtype == DT_U8, "packed bytes are %s", dtype_name(packed->dtype));
    return (uint8_t *)tensor_data(packed) + offset;
}

typedef struct Coding {
    const QuantPart *q;
    uint8_t *codes;
    const float *x; /* encoding */
    int64_t ld;
    float *absmax; /* encoding 4 bits: (scales) */
    void *scales;
    const float *tables, *nested;
    const uint8_t *zeros;
    const int32_t *groups;
} Coding;

static Coding coding_of(const Tensor *packed, const QuantPart *q)
{
    return (Coding){.q = q,
                    .codes = packed_at(packed, q->codes),
                    .scales = packed_at(packed, q->scales),
                    .tables = (const float *)packed_at(packed, q->tables),
                    .nested = (const float *)packed_at(packed, q->nested_scales),
                    .zeros = packed_at(packed, q->zeros),
                    .groups = (const int32_t *)packed_at(packed, q->groups)};
}

/* ---- encoding ----------------------------------------------------------------------------------- */

static float largest(const float *x, int64_t n)
{
    float most = 0;
    for (int64_t i = 0; i < n; i++)
        most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
    return most;
}

static float reciprocal(float absmax)
{
    return 1.0f / (absmax > 1e-38f ? absmax : 1e-38f);
}

/* x / absmax in [-1, 1].  Full blocks are multiplied by the reciprocal and short ones divided, as bitsandbytes' reference
 * does: it matters where the quotient is a tie. */
static float normed(float x, float absmax, float inverse, bool is_short)
{
    float y = is_short ? x / (absmax > 1e-38f ? absmax : 1e-38f) : x * inverse;
    return y < -1 ? -1 : y > 1 ? 1 : y;
}

static void encode4_blocks(void *args, int64_t from, int64_t to)
{
    const Coding *c = args;
    const QuantPart *q = c->q;
    const float *table = quant_table(q->type);
    int64_t numel = quant_numel(q);
    for (int64_t b = from; b < to; b++) {
        int64_t first = b * q->block, n = numel - first < q->block ? numel - first : q->block;
        float x[QUANT_MOST_BLOCK + 1];
        for (int64_t i = 0; i < n; i++)
            x[i] = c->x[(first + i) / q->cols * c->ld + (first + i) % q->cols];
        float absmax = largest(x, n), inverse = reciprocal(absmax);
        c->absmax[b] = absmax;
        x[n] = 0; /* an odd matrix's last byte has half of it to spare */
        for (int64_t i = 0; i < n; i += 2) {
            int high = quant_encode4(q->type, table, normed(x[i], absmax, inverse, n < q->block));
            int low =
                quant_encode4(q->type, table, normed(x[i + 1], absmax, inverse, n < q->block));
            c->codes[(first + i) / 2] = (uint8_t)(high << 4 | low);
        }
    }
}

/* The absmax less their mean, in 8 bits. */
static void encode_nested(Coding *c)
{
    int64_t n = quant_n_scales(c->q);
    float *tables = (float *)(uintptr_t)c->tables, *nested = (float *)(uintptr_t)c->nested;
    uint8_t *codes = c->scales;
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)c->absmax[i];
    float offset = (float)sum / (float)n;
    tables[16 + 256] = offset;
    for (int64_t first = 0; first < n; first += QUANT_NESTED_BLOCK) {
        int64_t m = n - first < QUANT_NESTED_BLOCK ? n - first : QUANT_NESTED_BLOCK;
        float *x = c->absmax + first;
        for (int64_t i = 0; i < m; i++)
            x[i] -= offset;
        float most = largest(x, m), inverse = reciprocal(most);
        nested[first / QUANT_NESTED_BLOCK] = most;
        for (int64_t i = 0; i < m; i++)
            codes[first + i] = (uint8_t)quant_nearest(
                tables + 16, 256, normed(x[i], most, inverse, m < QUANT_NESTED_BLOCK));
    }
}

static float round_f16(float x)
{
    return f16_to_f32(f16_from_f32(x));
}

static void encode8_rows(void *args, int64_t from, int64_t to)
{
    const Coding *c = args;
    int64_t cols = c->q->cols;
    for (int64_t r = from; r < to; r++) {
        const float *x = c->x + r * c->ld;
        uint8_t *code = c->codes + r * cols;
        float most = 0;
        if (c->q->type == QUANT_INT8) {
            for (int64_t i = 0; i < cols; i++)
                most = fmaxf(most, fabsf(round_f16(x[i])));
            float factor = quant_int8_factor(most);
            for (int64_t i = 0; i < cols; i++)
                code[i] = (uint8_t)(int8_t)rintf(round_f16(x[i]) * factor);
            ((float *)c->scales)[r] = most;
        } else {
            most = largest(x, cols);
            float scale = most / QUANT_FP8_MAX;
            for (int64_t i = 0; i < cols; i++)
                code[i] = most > 0 ? fp8_from_f32(x[i] / scale) : 0;
            ((float *)c->scales)[r] = scale;
        }
    }
}

void cpu_quantize(Device *d, Tensor *packed, const QuantPart *q, const Tensor *src)
{
    check_matrix(src, q->rows, q->cols, "src");
    Coding c = coding_of(packed, q);
    c.x = data_f32(src);
    c.ld = src->ld;
    if (!quant_is_4bit(q->type)) {
        ASSERT(!quant_is_group(q->type), "%s is read from files only", quant_type_name(q->type));
        rows_run(d, q->rows, 8 * q->cols, encode8_rows, &c);
        return;
    }
    quant_fill_tables((float *)(uintptr_t)c.tables, q);
    c.absmax = q->nested ? workspace_take(d, quant_encode_scratch(q)) : c.scales;
    rows_run(d, quant_n_scales(q), 16 * q->block, encode4_blocks, &c);
    if (!q->nested) return;
    encode_nested(&c);
    workspace_give(d);
}

/* ---- decoding ----------------------------------------------------------------------------------- */

static float scale4(const Coding *c, int64_t block)
{
    if (!c->q->nested) return ((const float *)c->scales)[block];
    float scale =
        c->tables[16 + ((const uint8_t *)c->scales)[block]] * c->nested[block / QUANT_NESTED_BLOCK];
    return scale + c->tables[16 + 256];
}

static float group_value(const Coding *c, int64_t row, int64_t col)
{
    const QuantPart *q = c->q;
    int64_t n = quant_n_scales(q), group = q->ordered ? c->groups[col] : col / q->block;
    float scale = f16_to_f32(((const uint16_t *)c->scales)[row * n + group]);
    int code = q->type == QUANT_GROUP8
                   ? c->codes[row * q->cols + col]
                   : c->codes[row * ((q->cols + 1) / 2) + col / 2] >> (col % 2 ? 4 : 0) & 15;
    return scale * (float)(code - c->zeros[row * n + group]);
}

/* One row into y. */
static void decode_row(const Coding *c, int64_t row, float *y)
{
    const QuantPart *q = c->q;
    int64_t first = row * q->cols;
    if (quant_is_4bit(q->type)) {
        for (int64_t i = 0, end; i < q->cols; i = end) {
            int64_t block = (first + i) / q->block;
            float scale = scale4(c, block);
            end = (block + 1) * q->block - first;
            end = end < q->cols ? end : q->cols;
            for (int64_t k = i; k < end; k++) {
                int64_t at = first + k;
                y[k] = c->tables[c->codes[at / 2] >> (at % 2 ? 0 : 4) & 15] * scale;
            }
        }
    } else if (q->type == QUANT_INT8) {
        float scb = ((const float *)c->scales)[row];
        for (int64_t i = 0; i < q->cols; i++)
            y[i] = (float)(int8_t)c->codes[first + i] * scb * QUANT_INV127;
    } else if (q->type == QUANT_FP8) {
        float scale = ((const float *)c->scales)[row];
        for (int64_t i = 0; i < q->cols; i++)
            y[i] = fp8_to_f32(c->codes[first + i]) * scale;
    } else {
        for (int64_t i = 0; i < q->cols; i++)
            y[i] = group_value(c, row, i);
    }
}

typedef struct Decode {
    Coding coding;
    float *y;
    int64_t ldy;
} Decode;

static void decode_rows(void *args, int64_t from, int64_t to)
{
    const Decode *a = args;
    for (int64_t r = from; r < to; r++)
        decode_row(&a->coding, r, a->y + r * a->ldy);
}

void cpu_dequantize(Device *d, Tensor *y, const Tensor *packed, const QuantPart *parts, int n)
{
    float *to = data_f32(y);
    int64_t rows = 0;
    for (int i = 0; i < n; i++) {
        const QuantPart *q = &parts[i];
        Decode a = {coding_of(packed, q), to + rows * y->ld, y->ld};
        rows_run(d, q->rows, 4 * q->cols, decode_rows, &a);
        rows += q->rows;
    }
    check_matrix(y, rows, parts[0].cols, "y");
}

/* ---- a few rows times the matrix ---------------------------------------------------------------- */

typedef struct Matvec {
    Coding coding;
    const float *x, *add;
    float *y, *scratch; /* a decoded row for each part of the loop */
    int64_t n, ldx, ldy, ld_add;
} Matvec;

static void matvec_part(void *args, int64_t part)
{
    const Matvec *a = args;
    const QuantPart *q = a->coding.q;
    float *w = a->scratch + part * q->cols;
    int64_t from = part * CPU_QUANT_ROWS;
    int64_t to = from + CPU_QUANT_ROWS < q->rows ? from + CPU_QUANT_ROWS : q->rows;
    for (int64_t r = from; r < to; r++) {
        decode_row(&a->coding, r, w);
        for (int64_t t = 0; t < a->n; t++) {
            double sum = 0;
            for (int64_t i = 0; i < q->cols; i++)
                sum += (double)a->x[t * a->ldx + i] * (double)w[i];
            if (a->add) sum += (double)a->add[t * a->ld_add + r];
            a->y[t * a->ldy + r] = (float)sum;
        }
    }
}

static void matvec(Device *d, Tensor *y, const Tensor *add, const Tensor *x, const Tensor *packed,
                   const QuantPart *q)
{
    int64_t n = tensor_rows(x);
    check_matrix(y, n, q->rows, "y");
    check_matrix(x, n, q->cols, "x");
    if (add) check_matrix(add, n, q->rows, "add");
    float *scratch = workspace_take(d, cpu_quant_matvec_scratch(q->rows, q->cols));
    Matvec a = {.coding = coding_of(packed, q),
                .x = data_f32(x),
                .add = add ? data_f32(add) : NULL,
                .y = data_f32(y),
                .scratch = scratch,
                .n = n,
                .ldx = x->ld,
                .ldy = y->ld,
                .ld_add = add ? add->ld : 0};
    pool_run(d->pool, (q->rows + CPU_QUANT_ROWS - 1) / CPU_QUANT_ROWS, matvec_part, &a);
    workspace_give(d);
}

void cpu_quant_matvec(Device *d, Tensor *y, const Tensor *add, const Tensor *x,
                      const NormBefore *norm, const Tensor *packed, const QuantPart *parts,
                      int n_parts)
{
    int64_t row0 = 0;
    ASSERT(tensor_rows(x) <= QUANT_MATVEC_ROWS, "quant_matvec: %lld rows",
           (long long)tensor_rows(x));
    if (norm) {
        cpu_rmsnorm_fwd(d, norm->y, norm->rstd, x, norm->w, norm->eps);
        x = norm->y;
    }
    for (int i = 0; i < n_parts; i++) {
        int64_t rows = parts[i].rows;
        Tensor part = tensor_slice_cols(y, row0, rows);
        Tensor plus = add ? tensor_slice_cols(add, row0, rows) : (Tensor){0};
        matvec(d, &part, add ? &plus : NULL, x, packed, &parts[i]);
        row0 += rows;
    }
    ASSERT(row0 == tensor_cols(y), "quant_matvec: %lld columns for %lld rows",
           (long long)tensor_cols(y), (long long)row0);
}
